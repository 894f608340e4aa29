"""How well batch times are predicted, and how batches are chosen by them: python -m benchmarks.batch_time

A model behind the engine's own scheduler and time model, without HTTP: queues of mixed traffic are kept at some depth,
and each batch's real time is set against its prediction, which was made before it ran, and against the limit by which
it was chosen. Other work on the machine shows in the real times; --cpu-time leaves it out, with one thread.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from benchmarks.machine import read_machine
from embedway.config import DEFAULT_MODEL
from embedway.engine.batch import num_squares, pack
from embedway.engine.batch_time_model import BatchTime
from embedway.engine.scheduler import QueuedRequest, Scheduler
from embedway.engine.warm_up import Samples, warm_up
from embedway.models.architectures import load_model
from embedway.models.checkpoint import read_spec
from embedway.models.checkpoint_location import locate
from embedway.models.cpu_threads import available_cores
from embedway.models.interface import EmbeddingModel

Lengths = npt.NDArray[np.int64]


def queries(rng: np.random.Generator) -> Lengths:
    return rng.integers(4, 20, 1)


def documents(rng: np.random.Generator) -> Lengths:
    return rng.integers(20, 257, 1)


def bulk(rng: np.random.Generator) -> Lengths:
    return rng.integers(20, 257, 64)


def mixed(rng: np.random.Generator) -> Lengths:
    return (queries, documents, bulk)[rng.choice(3, p=(0.8, 0.15, 0.05))](rng)


MakeRequest = Callable[[np.random.Generator], Lengths]
TRAFFIC: tuple[tuple[str, MakeRequest, int], ...] = (
    ("queries", queries, 1),
    ("queries", queries, 64),
    ("documents", documents, 1),
    ("documents", documents, 8),
    ("documents", documents, 64),
    ("bulk", bulk, 4),
    ("mixed", mixed, 16),
    ("mixed", mixed, 64),
)
"""Name, a request's lengths, and how many requests are kept waiting"""


@dataclass(slots=True)
class Record:
    predicted: list[float] = field(default_factory=list)
    real: list[float] = field(default_factory=list)
    limit: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Bench:
    model: EmbeddingModel
    clock: Callable[[], float]
    seconds: float


def run(bench: Bench, scheduler: Scheduler[QueuedRequest], make: MakeRequest, depth: int) -> Record:
    """Keep the queue at its depth and run batches for some seconds."""
    rng, keys, record = np.random.default_rng(0), itertools.count(), Record()
    ends = bench.clock() + bench.seconds
    while bench.clock() < ends:
        while scheduler.queued_requests < depth:
            lengths = make(rng)
            cu_seqlens = np.concatenate(([0], lengths.cumsum())).astype(np.int32)
            ids = rng.integers(1000, 20_000, cu_seqlens[-1]).astype(np.int32)
            scheduler.add(QueuedRequest(next(keys), ids, cu_seqlens))
        record.limit.append(scheduler.limit_ms)
        batch = pack(scheduler.next_batch())
        squares = num_squares(batch)
        record.predicted.append(scheduler.time_model.coefficients.predict(batch.num_tokens, squares))
        began = bench.clock()
        bench.model.embed(batch)
        record.real.append((bench.clock() - began) * 1000)
        record.tokens.append(batch.num_tokens)
        scheduler.time_model.observe(BatchTime(batch.num_tokens, squares, record.real[-1]))
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--target-batch-ms", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each kind of traffic")
    parser.add_argument("--cpu-time", action="store_true", help="one thread's own time, for a machine that is busy")
    arguments = parser.parse_args()
    clock = time.thread_time if arguments.cpu_time else time.perf_counter
    spec = read_spec(locate(arguments.model), name=arguments.model)
    threads = 1 if arguments.cpu_time else arguments.threads or available_cores()
    model = load_model(spec, dtype=arguments.dtype, device="cpu", threads=threads)
    print(f"{read_machine()}\n{spec.name}, {model.dtype}, {threads} threads{', CPU time' * arguments.cpu_time}")
    began = clock()
    time_model = warm_up(model, Samples.of(spec), clock=clock)
    print(f"Warm-up {(clock() - began) * 1000:.0f} ms: {time_model.coefficients}\n")
    print(
        "| requests | waiting | batches | tokens a batch | limit ms | real ms p50 | p90 | error p50 | p90 | tokens/s |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, make, depth in TRAFFIC:
        scheduler = Scheduler[QueuedRequest](
            max_batch_tokens=16384, target_ms=arguments.target_batch_ms, time_model=time_model
        )
        record = run(Bench(model, clock, arguments.seconds), scheduler, make, depth)
        real = np.array(record.real)
        errors = np.abs(np.array(record.predicted) - real) / real
        print(
            f"| {name} | {depth} | {len(real)} | {np.mean(record.tokens):.0f} | {np.median(record.limit):.1f} "
            f"| {np.median(real):.1f} | {np.quantile(real, 0.9):.1f} | {np.median(errors):.1%} "
            f"| {np.quantile(errors, 0.9):.1%} | {sum(record.tokens) / real.sum() * 1000:.0f} |"
        )
    print(f"\nAt the end: {time_model.coefficients}")


if __name__ == "__main__":
    main()
