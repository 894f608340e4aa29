"""What was measured, as it is stored: JSON in the folder `results`, from which tables and plots are made."""

from __future__ import annotations

import datetime as dt
import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from benchmarks.machine import Machine

RESULTS = Path(__file__).parent / "results"


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One contestant, one workload, one round."""

    peer: str
    workload: str
    round: int
    seconds: float
    texts: int
    tokens: int
    p50_ms: float
    """Of one request (serving) or one batch (engine)"""
    p99_ms: float
    peer_cpu_seconds: float
    """CPU time of the contestant's processes"""
    client_cpu_seconds: float = 0.0
    """CPU time of the measuring client, on the same cores"""


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """One contestant started with one model."""

    peer: str
    model: str
    round: int
    seconds_to_first_answer: float
    """From the command to the first vector, files in the page cache"""
    ready_resident_mb: float
    """Of all processes, after the first vector"""
    loaded_resident_mb: float
    """Of all processes, after this round's workloads"""
    loaded_proportional_mb: float
    """The same, with shared pages shared out"""
    worst_cosine: float | None
    """To sentence-transformers in float32; None for random weights"""


class Serving(msgspec.Struct, kw_only=True):
    """One run of `python -m benchmarks.serving`."""

    machine: Machine
    date: str
    command: str
    versions: dict[str, str] = {}
    """By contestant"""
    runs: list[Run] = []
    starts: list[Start] = []
    failures: dict[str, str] = {}
    """By contestant: why it has no figures"""


class Gemm(msgspec.Struct, frozen=True, kw_only=True):
    """A matrix product of one library, at its best."""

    model: str
    """Whose layers' shapes"""
    dtype: str
    source: str
    shapes: str
    tflops: float


class Engine(msgspec.Struct, kw_only=True):
    """One run of `python -m benchmarks.engine`."""

    machine: Machine
    date: str
    command: str
    dtypes: dict[str, str] = {}
    """By contestant of ours and model, as `NAME MODEL`: the type that the model was loaded in"""
    runs: list[Run] = []
    """A workload is `MODEL WHAT`"""
    gemms: list[Gemm] = []
    flops_per_token: dict[str, float] = {}
    """By workload"""
    worst_cosine: dict[str, float] = {}
    """By contestant, to sentence-transformers in float32"""


Result = TypeVar("Result", Serving, Engine)


def today() -> str:
    return dt.datetime.now(dt.timezone.utc).date().isoformat()


def command_line(module: str) -> str:
    """This program's command, to be repeated."""
    return " ".join([f"python -m {module}", *(json.dumps(word) if " " in word else word for word in sys.argv[1:])])


def save(result: Serving | Engine, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1))


def load(path: Path, kind: type[Result]) -> Result:
    return msgspec.json.decode(path.read_bytes(), type=kind)


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """The medians over the rounds of one contestant and one workload."""

    texts_per_second: float
    tokens_per_second: float
    p50_ms: float
    p99_ms: float
    cores_used: float
    """CPU seconds a second, client included: less than all cores under load means waiting, or a disturbed run"""


def medians(runs: Iterable[Run]) -> dict[tuple[str, str], Figures]:
    """By contestant and workload, in the order in which they first ran."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.peer, run.workload), []).append(run)
    return {
        key: Figures(
            texts_per_second=statistics.median(run.texts / run.seconds for run in rounds),
            tokens_per_second=statistics.median(run.tokens / run.seconds for run in rounds),
            p50_ms=statistics.median(run.p50_ms for run in rounds),
            p99_ms=statistics.median(run.p99_ms for run in rounds),
            cores_used=statistics.median(
                (run.peer_cpu_seconds + run.client_cpu_seconds) / run.seconds for run in rounds
            ),
        )
        for key, rounds in groups.items()
    }


def quantile_ms(latencies: Sequence[float], q: float) -> float:
    """The latency in ms that a share `q` of the requests did not exceed."""
    return sorted(latencies)[min(len(latencies) - 1, int(len(latencies) * q))] * 1000
