"""What the project wants to reach, and what was measured: python -m benchmarks.targets

Reads what the last `python -m benchmarks.serving` and `python -m benchmarks.engine` stored.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.checkpoints import MINILM
from benchmarks.machine import Machine
from benchmarks.peers import OURS
from benchmarks.results import RESULTS, Engine, Figures, Serving, load, medians
from benchmarks.roofline import roofline_tflops

AUTO, FLOAT32 = "embedway auto", "embedway float32"
"""Contestants of the engine benchmark"""


class NotMeasured(Exception):
    """The stored results lack what a row needs."""


class Evidence:
    """The figures that the rows are made of."""

    def __init__(self, engine: Engine | None, serving: Serving | None) -> None:
        self._engine = engine
        self._serving = serving
        self._engine_figures = medians(engine.runs) if engine else {}
        self._serving_figures = medians(serving.runs) if serving else {}

    def engine(self, peer: str, workload: str) -> Figures:
        return _find(self._engine_figures, peer, workload)

    def serving(self, peer: str, workload: str) -> Figures:
        return _find(self._serving_figures, peer, workload)

    def engine_ratio(self, ours: str, theirs: str) -> float:
        """On MiniLM's documents; the time of tokenizing counts for both."""
        workload = f"{MINILM} documents"
        model, tokenizing = (self.engine(peer, workload).tokens_per_second for peer in (ours, "tokenizing"))
        return 1 / (1 / model + 1 / tokenizing) / self.engine(theirs, workload).tokens_per_second

    def share_of_roofline(self, model: str) -> float:
        """Of `auto`'s own type"""
        workload = f"{model} documents"
        tokens = self.engine(AUTO, workload).tokens_per_second
        assert self._engine is not None
        roofline = roofline_tflops(self._engine.gemms, model, self._engine.dtypes[f"{AUTO} {model}"])
        return tokens * self._engine.flops_per_token[workload] / (roofline * 1e12)

    def throughput_ratio(self, workload: str, *theirs: str) -> float:
        """To the best of `theirs`"""
        best = max(self.serving(peer, workload).texts_per_second for peer in theirs)
        return self.serving(OURS, workload).texts_per_second / best

    def latency_ratio(self, workload: str, *theirs: str) -> float:
        """Of the medians, to the best of `theirs`"""
        return self.serving(OURS, workload).p50_ms / min(self.serving(peer, workload).p50_ms for peer in theirs)

    def worst_cosine(self) -> float:
        if self._engine is None or AUTO not in self._engine.worst_cosine:
            raise NotMeasured
        return self._engine.worst_cosine[AUTO]

    def seconds_to_first_answer(self) -> float:
        return statistics.median(start[0] for start in self._starts())

    def memory_mb(self) -> float:
        """Resident memory of all processes after the workloads, shared pages counted for each."""
        return statistics.median(start[1] for start in self._starts())

    def _starts(self) -> list[tuple[float, float]]:
        starts = self._serving.starts if self._serving else []
        found = [
            (s.seconds_to_first_answer, s.loaded_resident_mb) for s in starts if (s.peer, s.model) == (OURS, MINILM)
        ]
        if not found:
            raise NotMeasured
        return found


def _find(figures: dict[tuple[str, str], Figures], peer: str, workload: str) -> Figures:
    if (peer, workload) not in figures:
        raise NotMeasured
    return figures[peer, workload]


@dataclass(frozen=True, slots=True)
class Bounds:
    """A figure to reach: on AMD with AVX-512 BF16 (and any other), on Intel with AMX."""

    amd: float
    intel: float

    def on(self, machine: Machine) -> float:
        return self.intel if machine.vector_unit.startswith("amx") else self.amd


def everywhere(bound: float) -> Bounds:
    return Bounds(bound, bound)


@dataclass(frozen=True, slots=True)
class Target:
    name: str
    must: Bounds
    aim: Bounds
    measure: Callable[[Evidence], float]
    at_most: bool = False
    form: str = ".2f"

    def verdict(self, measured: float, machine: Machine) -> str:
        def reaches(bound: float) -> bool:
            return measured <= bound if self.at_most else measured >= bound

        if reaches(self.aim.on(machine)):
            return "aim"
        return "must" if reaches(self.must.on(machine)) else "**missed**"


VLLM = ("vllm", "vllm-bfloat16")
"""Its better type counts."""
DOCUMENTS, QUERIES, QUERY = "documents, 64 connections", "queries, 64 connections", "queries, 1 connection"
TARGETS = (
    Target(
        "engine, MiniLM documents, of the GEMM roofline",
        Bounds(0.70, 0.50),
        Bounds(0.85, 0.70),
        lambda e: e.share_of_roofline(MINILM),
    ),
    Target(
        "engine against sentence-transformers float32",
        everywhere(5),
        everywhere(8),
        lambda e: e.engine_ratio(AUTO, "sentence-transformers float32"),
    ),
    Target(
        "engine against sentence-transformers bfloat16",
        everywhere(1.9),
        everywhere(2.5),
        lambda e: e.engine_ratio(AUTO, "sentence-transformers bfloat16"),
    ),
    Target(
        "engine in float32 against sentence-transformers float32",
        Bounds(3.5, 1.3),
        Bounds(4.0, 1.6),
        lambda e: e.engine_ratio(FLOAT32, "sentence-transformers float32"),
    ),
    Target(
        "HTTP, documents, 64 connections, against vLLM's better type",
        everywhere(2),
        everywhere(3),
        lambda e: e.throughput_ratio(DOCUMENTS, *VLLM),
    ),
    Target(
        "HTTP, documents, 64 connections, against Infinity",
        everywhere(5),
        everywhere(10),
        lambda e: e.throughput_ratio(DOCUMENTS, "infinity"),
    ),
    Target(
        "HTTP, queries, 64 connections, against vLLM's better type",
        everywhere(2.2),
        everywhere(4),
        lambda e: e.throughput_ratio(QUERIES, *VLLM),
    ),
    Target(
        "HTTP, one query at a time, p50, against vLLM's better type",
        everywhere(0.3),
        everywhere(0.2),
        lambda e: e.latency_ratio(QUERY, *VLLM),
        at_most=True,
    ),
    Target(
        "HTTP, one query at a time, p50, against Infinity",
        everywhere(0.1),
        everywhere(0.06),
        lambda e: e.latency_ratio(QUERY, "infinity"),
        at_most=True,
        form=".3f",
    ),
    Target(
        "engine, 12 tokens, ms",
        everywhere(0.5),
        everywhere(0.3),
        lambda e: e.engine(AUTO, f"{MINILM} 12 tokens").p50_ms,
        at_most=True,
    ),
    Target(
        "engine, throughput in batches of 128 tokens against 2048",
        everywhere(0.95),
        everywhere(1),
        lambda e: (
            e.engine(AUTO, f"{MINILM} batches of 128").tokens_per_second
            / e.engine(AUTO, f"{MINILM} batches of 2048").tokens_per_second
        ),
    ),
    Target(
        "engine, mixed lengths against uniform, tokens/s",
        everywhere(0.93),
        everywhere(0.97),
        lambda e: (
            e.engine(AUTO, f"{MINILM} documents").tokens_per_second
            / e.engine(AUTO, f"{MINILM} uniform lengths").tokens_per_second
        ),
    ),
    Target(
        "accuracy of auto, worst cosine to sentence-transformers float32",
        everywhere(0.9999),
        everywhere(0.99999),
        Evidence.worst_cosine,
        form=".7f",
    ),
    Target(
        "MiniLM, cold start to the first answer, s",
        everywhere(2),
        everywhere(1),
        Evidence.seconds_to_first_answer,
        at_most=True,
    ),
    Target("MiniLM, memory of all processes, MB", everywhere(400), everywhere(250), Evidence.memory_mb, True, ".0f"),
    Target(
        "engine, bge-base shape, of the roofline",
        Bounds(0.70, 0.50),
        Bounds(0.85, 0.75),
        lambda e: e.share_of_roofline("bge-base"),
    ),
    Target(
        "engine, bge-large shape, of the roofline",
        Bounds(0.70, 0.50),
        Bounds(0.85, 0.75),
        lambda e: e.share_of_roofline("bge-large"),
    ),
)


def rows(evidence: Evidence, machine: Machine) -> Iterator[str]:
    """The table in Markdown, a line each."""
    yield "| | must | aim | measured | reached |"
    yield "|---|---|---|---|---|"
    for target in TARGETS:
        sign = "≤" if target.at_most else "≥"
        try:
            measured = target.measure(evidence)
            shown, verdict = f"{measured:{target.form}}", target.verdict(measured, machine)
        except NotMeasured:
            shown, verdict = "not measured", ""
        must, aim = target.must.on(machine), target.aim.on(machine)
        yield f"| {target.name} | {sign} {must:g} | {sign} {aim:g} | {shown} | {verdict} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", type=Path, default=RESULTS / "engine.json")
    parser.add_argument("--serving", type=Path, default=RESULTS / "serving.json")
    arguments = parser.parse_args()
    engine = load(arguments.engine, Engine) if arguments.engine.is_file() else None
    serving = load(arguments.serving, Serving) if arguments.serving.is_file() else None
    measured = engine or serving
    if measured is None:
        parser.error("nothing was measured yet: python -m benchmarks.engine, python -m benchmarks.serving")
    print(f"{measured.machine}\n")
    print("\n".join(rows(Evidence(engine, serving), measured.machine)))


if __name__ == "__main__":
    main()
