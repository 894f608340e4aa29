"""What a server answers when far more comes than it can do: python -m benchmarks.overload

First its peak: as many clients as keep it busy, each waiting for its answer. Then requests of clients that do not wait,
MULTIPLES of that peak, each with a deadline. Goodput is what was answered in time.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Sequence

import numpy as np

from benchmarks.checkpoints import minilm_folder
from benchmarks.http_load import run_load, write_request
from benchmarks.machine import read_machine
from benchmarks.open_loop import OpenLoopResult, run_open_loop
from benchmarks.peers import PEERS, Server
from benchmarks.running_peer import RunningServer
from benchmarks.texts import Lengths, document_lengths, query_lengths, texts
from benchmarks.workloads import chunks

PEAK_CONNECTIONS = 64
LOADS: dict[str, tuple[Lengths, int]] = {
    "one document": (document_lengths, 1),
    "8 documents": (document_lengths, 8),
    "one query": (query_lengths, 1),
}
"""What is sent → lengths and number of a request's texts"""


def requests(path: str, load: str, count: int, seed: str, timeout_ms: int | None = None) -> list[bytes]:
    lengths, size = LOADS[load]
    headers = {} if timeout_ms is None else {"X-Request-Timeout-Ms": str(timeout_ms)}
    lists = itertools.islice(chunks(texts(lengths, seed), size), count)
    return [write_request(path, [text.text for text in own], headers) for own in lists]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", nargs="*", choices=LOADS, default=list(LOADS))
    parser.add_argument("--multiples", nargs="*", type=float, default=[3.0])
    parser.add_argument("--timeout-ms", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    arguments = parser.parse_args()
    print(read_machine())
    print(
        "| load | offered | peak/s | goodput/s | ratio | in time | refused | too late | answered p50 / p99 ms ", end=""
    )
    print("| refused p50 / p99 ms | client's CPU |")
    print("|---" * 11 + "|")
    peer = PEERS["embedway"]
    assert isinstance(peer, Server)
    server = RunningServer(peer, minilm_folder())
    try:
        for load, multiple in itertools.product(arguments.loads, arguments.multiples):
            peaks, rounds = measure(server.port, peer.path, load, multiple, arguments)
            print(row(load, multiple, peaks, rounds), flush=True)
    finally:
        server.stop()


def measure(
    port: int, path: str, load: str, multiple: float, arguments: argparse.Namespace
) -> tuple[list[float], list[OpenLoopResult]]:
    """The peak before and the overload after it, in every round but the first, which warms up."""
    peaks: list[float] = []
    rounds: list[OpenLoopResult] = []
    for i in range(arguments.rounds + 1):
        own = requests(path, load, 20_000, f"peak {i}")
        peak = run_load(port, own, connections=PEAK_CONNECTIONS, seconds=arguments.seconds)
        rate = multiple * len(peak.latencies) / peak.seconds
        count = int(rate * arguments.seconds)
        offered = requests(path, load, count, f"overload {i}", arguments.timeout_ms)
        result = run_open_loop(port, offered, rate=rate, seed=i)
        if i:
            peaks.append(len(peak.latencies) / peak.seconds)
            rounds.append(result)
    return peaks, rounds


def row(load: str, multiple: float, peaks: Sequence[float], rounds: Sequence[OpenLoopResult]) -> str:
    ratio = statistics.median(result.goodput() / peak for peak, result in zip(peaks, rounds, strict=True))
    answered = [latency for result in rounds for latency in result.answered]
    refused = [latency for result in rounds for latency in result.refused]
    late, other = sum(len(result.expired) for result in rounds), sum(len(result.other) for result in rounds)
    cpu = statistics.median(result.client_cpu_seconds / result.seconds for result in rounds)
    total = len(answered) + len(refused) + late + other
    assert not other, "nothing but answers, refusals and expiries"
    return (
        f"| {load} | {multiple:g}x | {statistics.median(peaks):.0f} "
        f"| {statistics.median(result.goodput() for result in rounds):.0f} | {ratio:.2f} "
        f"| {len(answered) / total:.0%} | {len(refused) / total:.0%} | {late / total:.1%} "
        f"| {percentiles(answered)} | {percentiles(refused)} | {cpu:.2f} |"
    )


def percentiles(latencies: Sequence[float]) -> str:
    if not latencies:
        return "–"
    p50, p99 = np.percentile(latencies, [50, 99]) * 1000
    return f"{p50:.1f} / {p99:.1f}"


if __name__ == "__main__":
    main()
