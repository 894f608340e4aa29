"""Ray Serve's way beside our own server: python -m benchmarks.cluster [--replicas 1 2]

The same client and texts for both, in turns; on a cluster of this machine alone.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import statistics
from collections.abc import Sequence

import numpy as np
import ray
from ray import serve

from benchmarks.checkpoints import minilm_folder
from benchmarks.http_load import SERVED_NAME, run_load, write_request
from benchmarks.machine import read_machine
from benchmarks.peers import PEERS, Server
from benchmarks.running_peer import RunningServer, free_port
from benchmarks.texts import Lengths, document_lengths, query_lengths, texts
from benchmarks.workloads import chunks
from embedway.cluster.app import ClusterSettings, build

LOADS: dict[str, tuple[Lengths, int, int]] = {
    "one query, 1 connection": (query_lengths, 1, 1),
    "queries, 64 connections": (query_lengths, 1, 64),
    "one document, 64 connections": (document_lengths, 1, 64),
    "lists of 32 documents, 8 connections": (document_lengths, 32, 8),
}
"""What is sent → lengths, texts of a request, connections"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    print(read_machine())
    peer = PEERS["embedway"]
    assert isinstance(peer, Server)
    own = RunningServer(peer, minilm_folder())
    ray_port = free_port()
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, num_cpus=8)
    serve.start(http_options={"host": "127.0.0.1", "port": ray_port})
    print("| replicas | load | our server: texts/s, p50 ms | on Ray: texts/s, p50 ms | ratio of texts/s |")
    print("|---|---|---|---|---|")
    try:
        for replicas in arguments.replicas:
            settings = {"model_path": str(minilm_folder()), "served_model_name": [SERVED_NAME], "cache_mb": 0}
            # as many threads in all as our own server has
            threads = max(1, (os.cpu_count() or 1) // replicas)
            values = {"settings": {**settings, "threads": threads}, "min_replicas": replicas, "max_replicas": replicas}
            serve.run(build(ClusterSettings.model_validate(values)), name="embedway", route_prefix="/")
            for load in LOADS:
                print(f"| {replicas} | {load} {compare(load, own.port, ray_port, peer.path, arguments)}", flush=True)
    finally:
        own.stop()
        serve.shutdown()
        ray.shutdown()


def compare(load: str, own_port: int, ray_port: int, path: str, arguments: argparse.Namespace) -> str:
    lengths, size, connections = LOADS[load]
    rounds: list[tuple[tuple[float, float], tuple[float, float]]] = []
    for i in range(arguments.rounds + 1):
        seen = [
            measured(port, requests(path, lengths, size, f"cluster {load} {i} {port}"), size, connections, arguments)
            for port in (own_port, ray_port)
        ]
        if i:  # the first warms up
            rounds.append((seen[0], seen[1]))
    own, on_ray = (np.median([pair[place] for pair in rounds], axis=0) for place in (0, 1))
    ratio = statistics.median(there[0] / here[0] for here, there in rounds)
    return f"| {own[0]:.0f}, {own[1]:.1f} | {on_ray[0]:.0f}, {on_ray[1]:.1f} | {ratio:.2f} |"


def requests(path: str, lengths: Lengths, size: int, seed: str) -> list[bytes]:
    lists = itertools.islice(chunks(texts(lengths, seed), size), 6000 // size)
    return [write_request(path, [text.text for text in own], {}) for own in lists]


def measured(
    port: int, own: Sequence[bytes], size: int, connections: int, arguments: argparse.Namespace
) -> tuple[float, float]:
    """Texts a second, and p50 in milliseconds."""
    result = run_load(port, own, connections=connections, seconds=arguments.seconds)
    return size * len(result.latencies) / result.seconds, float(np.median(result.latencies)) * 1000


if __name__ == "__main__":
    main()
