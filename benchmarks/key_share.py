"""What one API key gets beside another that floods the server: python -m benchmarks.key_share

With and without `--fair-share keys`: documents a second of a modest key alone and beside the flood, and of the flood.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace

from benchmarks.checkpoints import minilm_folder
from benchmarks.http_load import Requests, bearer, run_loads, write_request
from benchmarks.machine import read_machine
from benchmarks.peers import OURS, PEERS, Server
from benchmarks.running_peer import RunningServer
from benchmarks.texts import document_lengths, texts
from benchmarks.workloads import chunks

FLOOD_KEY, MODEST_KEY = "flood", "modest"
NUM_DOCUMENTS = 4096
"""More than are sent"""


@dataclass(frozen=True, slots=True)
class Sender:
    key: str
    connections: int
    documents: int
    """Of a request"""

    def __str__(self) -> str:
        return f"{self.connections} × {self.documents}"

    def requests(self, path: str, seed: str) -> Requests:
        lists = itertools.islice(chunks(texts(document_lengths, seed), self.documents), NUM_DOCUMENTS // self.documents)
        return Requests(
            [write_request(path, [t.text for t in own], bearer(self.key)) for own in lists], self.connections
        )


FLOODS = (Sender(FLOOD_KEY, 16, 64), Sender(FLOOD_KEY, 64, 1))
MODEST = (Sender(MODEST_KEY, 1, 1), Sender(MODEST_KEY, 4, 1))


def rows(shared_by: str, rounds: int, seconds: float) -> Iterator[str]:
    peer = PEERS[OURS]
    assert isinstance(peer, Server)
    keys = ("--api-key", FLOOD_KEY, "--api-key", MODEST_KEY)
    flags = (*keys, "--fair-share", shared_by, "--max-queued-tokens", "10000000")  # nothing is refused
    server = RunningServer(replace(peer, command=(*peer.command, *flags), key=MODEST_KEY), minilm_folder())
    try:
        for modest, flood in itertools.product(MODEST, FLOODS):
            measured = [measure(server.port, peer.path, flood, modest, seconds, i) for i in range(rounds)]
            alone, beside, of_flood = (statistics.median(column) for column in zip(*measured, strict=True))
            speeds = f"{alone:.1f} | {beside:.1f} | {of_flood:.1f} | {beside / alone:.2f}"
            yield f"| {shared_by} | {flood} | {modest} | {speeds} |"
    finally:
        server.stop()


def measure(
    port: int, path: str, flood: Sender, modest: Sender, seconds: float, turn: int
) -> tuple[float, float, float]:
    """Documents a second: of the modest key alone and beside the flood, and of the flood."""
    asked, flooding = modest.requests(path, f"modest {turn}"), flood.requests(path, f"flood {turn}")
    (alone,) = run_loads(port, [asked], seconds=seconds)
    beside, of_flood = run_loads(port, [asked, flooding], seconds=seconds)
    return (
        modest.documents * len(alone.latencies) / alone.seconds,
        modest.documents * len(beside.latencies) / beside.seconds,
        flood.documents * len(of_flood.latencies) / of_flood.seconds,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    arguments = parser.parse_args()
    print(read_machine())
    print("| shared by | flood: connections × documents | modest key | alone, documents/s | beside | flood | ratio |")
    print("|---|---|---|---|---|---|---|")
    for shared_by in ("requests", "keys"):
        for row in rows(shared_by, arguments.rounds, arguments.seconds):
            print(row, flush=True)


if __name__ == "__main__":
    main()
