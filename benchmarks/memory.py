"""Memory of all the server's processes over many requests of mixed sizes: python -m benchmarks.memory

Prints the resident memory after each tenth of the requests: it should stand still over the last half.
"""

from __future__ import annotations

import argparse
import asyncio
import random

from benchmarks.machine import describe_machine
from benchmarks.server_process import ServerProcess
from benchmarks.serving import MODEL, load
from benchmarks.workloads import documents, queries

CONNECTIONS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    arguments = parser.parse_args()
    tenth = arguments.requests // 10
    texts = documents(arguments.requests // 5).texts + queries(arguments.requests - arguments.requests // 5).texts
    random.Random(0).shuffle(texts)
    print(describe_machine())
    print(f"{arguments.requests} requests over {CONNECTIONS} connections, one document in five, the rest queries")
    server = ServerProcess(MODEL, "--truncate", "end")
    try:
        print(f"{'ready':>8}  {server.resident_mb()} MB")
        for i in range(10):
            asyncio.run(load(f"{server.url}/v1/embeddings", texts[i * tenth : (i + 1) * tenth], CONNECTIONS))
            print(f"{(i + 1) * tenth:>8}  {server.resident_mb()} MB", flush=True)
    finally:
        server.stop()


if __name__ == "__main__":
    main()
