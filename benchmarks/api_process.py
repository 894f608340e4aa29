"""What HTTP, tokenizing and the way between the processes cost: python -m benchmarks.api_process [SOURCE ...]

An API process over an engine whose model costs nothing: CPU time of both processes a request (an item, for lists), and
latency at one connection. Several source trees (`src` folders) take turns, round by round; the default is this one.
"""

from __future__ import annotations

import argparse
import itertools
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil

from benchmarks.http_load import SERVED_NAME, run_load, write_request
from benchmarks.machine import read_machine
from benchmarks.texts import Text, document_lengths, query_lengths, texts
from benchmarks.workloads import chunks
from embedway.api_keys import ApiKeys
from embedway.config import DEFAULT_MODEL
from embedway.engine.supervisor import listen
from embedway.engine.wire import ApiConfig, EngineConfig
from embedway.models.checkpoint import read_spec
from embedway.models.checkpoint_location import locate
from embedway.supervisor_words import ModelConfig, write_models

REPOSITORY = Path(__file__).parents[1]
LIST_LENGTH = 32
LONGEST_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    connections: int
    requests: Sequence[bytes]
    items_per_request: int = 1


class Pair:
    """An API process and its engine, of one source tree."""

    def __init__(self, source: Path, folder: Path) -> None:
        spec = read_spec(locate(DEFAULT_MODEL), name=DEFAULT_MODEL)
        # Those that are not the default alone: an older tree does not know the newer ones.
        settings = {"truncate": "end", "log_level": "warning", "served_model_name": [SERVED_NAME]}
        address = f"{folder}/engine.sock"
        engine = EngineConfig(
            spec=spec,
            address=address,
            dtype="float32",
            device="cpu",
            threads=1,
            max_batch_tokens=8192,
            target_batch_ms=None,
            log_level="warning",
        )
        self._environment = {**os.environ, "PYTHONPATH": f"{source}:{REPOSITORY}"}
        self._engine = self._start("benchmarks.free_engine", engine)
        with listen("127.0.0.1", 0) as listening:
            self.port = listening.getsockname()[1]
            model = ModelConfig(
                number=0,
                settings=settings,
                spec=spec,
                engine_addresses=[address],
                first_engine=0,
                adapters_folder=str(folder),
            )
            write_models(folder / "models.json", [model])
            config = ApiConfig(
                settings=settings,
                keys=ApiKeys(),
                models_file=f"{folder}/models.json",
                socket_fd=listening.fileno(),
                metrics_folder=str(folder),
            )
            # an older tree, with one model, looks for that one's own fields
            api = {**msgspec.to_builtins(model), **msgspec.to_builtins(config)}
            self._api = self._start("embedway.api.server", api, listening)

    def _start(
        self, module: str, config: msgspec.Struct | dict[str, Any], listening: socket.socket | None = None
    ) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._environment,
            pass_fds=[listening.fileno()] if listening else [],
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(config) + b"\n")
        process.stdin.flush()
        assert process.stdout.readline(), f"{module} did not start"
        return process

    def measure(self, case: Case) -> tuple[float, float, float]:
        """CPU microseconds of the API process and of the engine an item, and the median latency in microseconds."""
        processes = (self._api, self._engine)
        before = [cpu_seconds(process) for process in processes]
        result = run_load(self.port, case.requests, connections=case.connections, seconds=LONGEST_SECONDS)
        num_items = len(result.latencies) * case.items_per_request
        api, engine = (
            (cpu_seconds(process) - earlier) / num_items * 1e6
            for process, earlier in zip(processes, before, strict=True)
        )
        return api, engine, statistics.median(result.latencies) * 1e6

    def close(self) -> None:
        for process in (self._api, self._engine):
            process.kill()
            process.wait()


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    times = psutil.Process(process.pid).cpu_times()
    return times.user + times.system


def http_request(chunk: Sequence[Text]) -> bytes:
    return write_request("/v1/embeddings", [text.text for text in chunk])


def make_cases(num_requests: int) -> list[Case]:
    queries = chunks(itertools.islice(texts(query_lengths, "queries"), num_requests), 1)
    lists = chunks(itertools.islice(texts(document_lengths, "documents"), num_requests), LIST_LENGTH)
    single, several = ([http_request(chunk) for chunk in source] for source in (queries, lists))
    return [
        Case("queries, 64 connections", 64, single),
        Case("queries, 1 connection", 1, single[: num_requests // 4]),
        Case(f"documents in lists of {LIST_LENGTH}, 8 connections", 8, several, LIST_LENGTH),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", type=Path, default=[REPOSITORY / "src"])
    parser.add_argument("--requests", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=4, help="an even number is fair: the order turns round each time")
    parser.add_argument("--case", default="", help="a part of the cases' names")
    arguments = parser.parse_args()
    print(read_machine())
    cases = [case for case in make_cases(arguments.requests) if arguments.case in case.name]
    figures: dict[tuple[Path, str], list[tuple[float, float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        pairs: dict[Path, Pair] = {}
        try:
            for i, source in enumerate(arguments.sources):
                own = Path(folder, str(i))
                own.mkdir()
                pairs[source] = Pair(source.absolute(), own)
                pairs[source].measure(cases[0])  # warm
            turns = list(pairs.items())
            for _, case in itertools.product(range(arguments.rounds), cases):
                for source, pair in turns:
                    figures.setdefault((source, case.name), []).append(pair.measure(case))
                turns.reverse()  # who comes second pays up to 7% more at one connection
        finally:
            for pair in pairs.values():
                pair.close()
    print("| source | case | API CPU µs an item | engine CPU µs an item | p50 µs |\n|---|---|---|---|---|")
    for (source, name), rows in figures.items():
        api, engine, latency = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"| {source} | {name} | {api:.0f} | {engine:.1f} | {latency:.0f} |")


if __name__ == "__main__":
    main()
