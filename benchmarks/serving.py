"""This server beside its peers on this machine: `make bench`, or python -m benchmarks.serving.

In each round every contestant is started, does all the workloads alone on the machine, and is ended; the next round has
them in another order. All get the same texts from the same client, which runs on the same cores; no text comes twice.
Libraries without HTTP do the workloads that are one list of texts after the other. Figures are medians over the rounds.

A short run: python -m benchmarks.serving --peers embedway infinity --workloads "queries, 64" --rounds 1
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.checkpoints import MINILM, Checkpoints
from benchmarks.http_load import RequestFailed
from benchmarks.machine import read_machine
from benchmarks.peers import DEFAULT_PEERS, PEERS, Library, Peer, is_installed, python_of
from benchmarks.results import RESULTS, Run, Serving, Start, command_line, quantile_ms, save, today
from benchmarks.running_peer import PeerFailed, RunningPeer, start_peer
from benchmarks.serving_tables import print_serving
from benchmarks.texts import document_lengths, query_lengths, texts
from benchmarks.vector_distance import worst_cosine
from benchmarks.workloads import DEFAULT_GROUPS, GROUPS, Load, Workload, choose_workloads, make_load

WARM_UP = Workload(
    name="warm-up", group="", lengths=query_lengths, connections=8, texts_per_request=4, num_texts=4096, seconds=2.0
)
"""A list of texts, so that libraries can do it too."""
NUM_CHECKED = 16
"""Documents and queries, of each, whose vectors are compared with sentence-transformers'."""


def measure(peer: Peer, running: RunningPeer, workload: Workload, load: Load, round_number: int) -> Run:
    """Run a workload's round."""
    cpu = running.processes.cpu_seconds()
    result = running.run(load)
    done = load.requests[: len(result.latencies)]
    return Run(
        peer=peer.name,
        workload=workload.name,
        round=round_number,
        seconds=result.seconds,
        texts=sum(map(len, done)),
        tokens=sum(text.num_tokens for request in done for text in request),
        p50_ms=quantile_ms(result.latencies, 0.5),
        p99_ms=quantile_ms(result.latencies, 0.99),
        peer_cpu_seconds=running.processes.cpu_seconds() - cpu,
        client_cpu_seconds=result.client_cpu_seconds,
    )


def checked_texts() -> list[str]:
    return [
        text.text
        for lengths in (query_lengths, document_lengths)
        for text in itertools.islice(texts(lengths, "checked"), NUM_CHECKED)
    ]


def reference_vectors(model: Path) -> npt.NDArray[np.float32]:
    """What sentence-transformers gives in float32, from the Python that runs the benchmark."""
    library = Library(
        name="reference", environment=None, distribution="sentence-transformers", library="sentence-transformers"
    )
    running = start_peer(library, model)
    try:
        return running.embed(checked_texts())
    finally:
        running.stop()


class Comparison:
    """The state of one run: what is to be measured, and what has been."""

    def __init__(
        self, result: Serving, output: Path, workloads: Sequence[Workload], checkpoints: Checkpoints, scale: float
    ) -> None:
        self.result = result
        self.output = output
        self.workloads = workloads
        self.checkpoints = checkpoints
        self.time_scale = scale
        self.reference: npt.NDArray[np.float32] | None = None

    def run_round(self, peers: Sequence[Peer], round_number: int) -> None:
        """Every contestant that has not failed so far, with every model."""
        for peer in peers:
            for model in dict.fromkeys(w.model for w in self.workloads if round_number < w.max_rounds):
                if peer.name not in self.result.failures:
                    self.run_model(peer, model, round_number)

    def run_model(self, peer: Peer, model: str, round_number: int) -> None:
        """Start a contestant with a model, run the model's workloads; a failure is noted, and is no end."""
        mine = [w for w in self.workloads if w.model == model and round_number < w.max_rounds]
        if isinstance(peer, Library):
            mine = [w for w in mine if not w.needs_server]
        if not mine:
            return
        print(f"round {round_number + 1}: {peer.name}, {model}", end="", file=sys.stderr, flush=True)
        began = time.perf_counter()
        try:
            running = start_peer(peer, self.checkpoints.folder_of(model))
            try:
                self.run_workloads(peer, running, model, mine, round_number)
            finally:
                running.stop()
        except (PeerFailed, RequestFailed, OSError) as error:
            self.result.failures[peer.name] = f"{model}: {error}"
        save(self.result, self.output)
        print(f" ({time.perf_counter() - began:.0f} s)", file=sys.stderr)

    def run_workloads(
        self, peer: Peer, running: RunningPeer, model: str, workloads: Sequence[Workload], round_number: int
    ) -> None:
        ready_mb = running.processes.resident_mb()
        running.run(make_load(WARM_UP, round_number, time_scale=self.time_scale))
        for workload in workloads:
            load = make_load(workload, round_number, time_scale=self.time_scale)
            self.result.runs.append(measure(peer, running, workload, load, round_number))
        self.result.starts.append(
            Start(
                peer=peer.name,
                model=model,
                round=round_number,
                seconds_to_first_answer=running.seconds_to_first_answer,
                ready_resident_mb=ready_mb,
                loaded_resident_mb=running.processes.resident_mb(),
                loaded_proportional_mb=running.processes.proportional_mb(),
                worst_cosine=self.compare(running) if model == MINILM else None,
            )
        )

    def compare(self, running: RunningPeer) -> float:
        if self.reference is None:
            self.reference = reference_vectors(self.checkpoints.folder_of(MINILM))
        return worst_cosine(running.embed(checked_texts()), self.reference)


def version_of(peer: Peer) -> str:
    program = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
    asked = subprocess.run([python_of(peer), "-c", program, peer.distribution], capture_output=True, text=True)
    return f"{peer.distribution} {asked.stdout.strip()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", choices=PEERS, help="by default all that are installed")
    parser.add_argument(
        "--workloads",
        nargs="+",
        default=DEFAULT_GROUPS,
        help=f"groups ({', '.join(GROUPS)}) or beginnings of workloads' names; by default {', '.join(DEFAULT_GROUPS)}",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--time-scale", type=float, default=1.0, help="multiplies the time of each workload")
    parser.add_argument("--output", type=Path, default=RESULTS / "serving.json")
    arguments = parser.parse_args()
    try:
        workloads = choose_workloads(arguments.workloads)
    except ValueError as error:
        parser.error(str(error))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # no server is left behind
    wanted = [PEERS[name] for name in arguments.peers or DEFAULT_PEERS]
    peers = [peer for peer in wanted if is_installed(peer)]
    if not peers:
        parser.error("none of these is installed: python -m benchmarks.install_peers")
    result = Serving(
        machine=read_machine(),
        date=today(),
        command=command_line("benchmarks.serving"),
        versions={peer.name: version_of(peer) for peer in peers},
    )
    for peer in wanted:
        if peer.environment is not None and not peer.environment.is_installed:
            result.failures[peer.name] = f"not installed: python -m benchmarks.install_peers {peer.environment.name}"
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(result, arguments.output, workloads, Checkpoints(Path(folder)), arguments.time_scale)
        for i in range(arguments.rounds):
            first = i % len(peers)
            comparison.run_round([*peers[first:], *peers[:first]], i)
    print_serving(result)
    print(f"\nStored in {os.path.relpath(arguments.output)}; all tables and plots: python -m benchmarks.report")


if __name__ == "__main__":
    main()
