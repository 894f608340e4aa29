"""Memory of all the server's processes over many requests of mixed sizes: python -m benchmarks.memory

Prints the resident memory after each tenth of the requests: it should stand still over the last half.
"""

from __future__ import annotations

import argparse
import itertools
import random

from benchmarks.checkpoints import minilm_folder
from benchmarks.machine import read_machine
from benchmarks.peers import OURS, PEERS
from benchmarks.running_peer import start_peer
from benchmarks.texts import document_lengths, query_lengths, texts
from benchmarks.workloads import Load

CONNECTIONS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    arguments = parser.parse_args()
    tenth = arguments.requests // 10
    mixed = [
        *itertools.islice(texts(document_lengths, "memory"), 2 * tenth),
        *itertools.islice(texts(query_lengths, "memory"), 8 * tenth),
    ]
    random.Random(0).shuffle(mixed)
    print(read_machine())
    print(f"{arguments.requests} requests over {CONNECTIONS} connections, one document in five, the rest queries")
    server = start_peer(PEERS[OURS], minilm_folder())
    try:
        print(f"{'ready':>8}  {server.processes.resident_mb():.0f} MB")
        for i in range(10):
            requests = [[text] for text in mixed[i * tenth : (i + 1) * tenth]]
            server.run(Load(requests, CONNECTIONS, seconds=float("inf")))
            print(f"{(i + 1) * tenth:>8}  {server.processes.resident_mb():.0f} MB", flush=True)
    finally:
        server.stop()


if __name__ == "__main__":
    main()
