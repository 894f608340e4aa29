"""What the project wants to reach, beside what was measured: a row of TARGETS each."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.checkpoints import MINILM
from benchmarks.machine import Machine
from benchmarks.peers import OURS
from benchmarks.results import Engine, Figures, Serving, Start, medians
from benchmarks.roofline import roofline_tflops

AUTO, FLOAT32 = "embedway auto", "embedway float32"
"""Contestants of the engine benchmark"""


class NotMeasured(Exception):
    """The stored results lack what a row needs."""


class Evidence:
    """The figures that the rows are made of."""

    def __init__(self, engine: Engine | None, serving: Sequence[Serving]) -> None:
        self._engine = engine
        self._starts = [start for result in serving for start in result.starts]
        self._engine_figures = medians(engine.runs) if engine else {}
        self._serving_figures = medians(run for result in serving for run in result.runs)

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

    def our_start(self, figure: Callable[[Start], float]) -> float:
        """The median over our starts with MiniLM"""
        found = [figure(start) for start in self._starts if (start.peer, start.model) == (OURS, MINILM)]
        if not found:
            raise NotMeasured
        return statistics.median(found)


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
        lambda e: e.our_start(lambda start: start.seconds_to_first_answer),
        at_most=True,
    ),
    Target(
        "MiniLM, memory of all processes, MB",
        everywhere(400),
        everywhere(250),
        lambda e: e.our_start(lambda start: start.loaded_resident_mb),
        at_most=True,
        form=".0f",
    ),
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
