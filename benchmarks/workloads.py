"""What is asked of every contestant: a row of WORKLOADS each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.checkpoints import MINILM
from benchmarks.texts import Lengths, Text, document_lengths, query_lengths, texts, uniform_lengths

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Texts sent in a closed loop: each connection sends its next request when the last is answered.

    It ends with the last text, or when `seconds` are over: what has begun by then is finished and counts.
    """

    name: str
    group: str
    """What `--workloads` may choose at once"""
    lengths: Lengths
    connections: int = 1
    texts_per_request: int = 1
    num_texts: int
    seconds: float = 4.0
    max_rounds: int = 99
    model: str = MINILM

    @property
    def needs_server(self) -> bool:
        """Whether only a server can do it: a library is called with one list of texts after the other."""
        return self.connections > 1 and self.texts_per_request == 1


@dataclass(frozen=True, slots=True)
class Load:
    """One round of a workload: the requests themselves."""

    requests: Sequence[Sequence[Text]]
    connections: int
    seconds: float


def make_load(workload: Workload, round_number: int, *, time_scale: float = 1.0) -> Load:
    """The requests of a round, each time others."""
    source = texts(workload.lengths, f"{workload.name}, round {round_number}")
    wanted = itertools.islice(source, workload.num_texts)
    requests = list(chunks(wanted, workload.texts_per_request))
    return Load(requests, workload.connections, workload.seconds * time_scale)


def chunks(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while chunk := list(itertools.islice(items, size)):
        yield chunk


KINDS: Mapping[str, Lengths] = {"queries": query_lengths, "documents": document_lengths}
NUM_TEXTS = {"queries": 20_000, "documents": 4_000}
"""More than anybody embeds in the time that a workload has."""
LOAD_SECONDS = {1: 2.0, 8: 3.0, 64: 4.0}
"""By the number of connections."""
CURVE_CONNECTIONS = (2, 4, 16, 32, 128)
"""Between and beyond those of the group `load`, for the plots."""


def _load(kind: str, connections: int, group: str, seconds: float) -> Workload:
    return Workload(
        name=f"{kind}, {connections} connection{'s' * (connections > 1)}",
        group=group,
        lengths=KINDS[kind],
        connections=connections,
        num_texts=NUM_TEXTS[kind],
        seconds=seconds,
    )


def _scaling(num_texts: int) -> Workload:
    return Workload(
        name=f"{num_texts} queries at once",
        group="scaling",
        lengths=query_lengths,
        connections=4,
        texts_per_request=min(num_texts, 256),
        num_texts=num_texts,
        seconds=60.0,
        max_rounds=1,
    )


def _large(model: str) -> Workload:
    return Workload(
        name=f"{model}: documents, 8 connections",
        group="large models",
        lengths=document_lengths,
        connections=8,
        num_texts=1_000,
        seconds=8.0,
        max_rounds=1,
        model=model,
    )


WORKLOADS: Mapping[str, Workload] = {
    workload.name: workload
    for workload in (
        *(_load(kind, n, "load", seconds) for kind in KINDS for n, seconds in LOAD_SECONDS.items()),
        # four connections, so that a server has the next batch while the client reads the last answer
        Workload(
            name="documents, batches of 32",
            group="batches",
            lengths=document_lengths,
            connections=4,
            texts_per_request=32,
            num_texts=4_096,
        ),
        Workload(
            name="documents of one length, batches of 32",
            group="batches",
            lengths=uniform_lengths,
            connections=4,
            texts_per_request=32,
            num_texts=4_096,
        ),
        Workload(
            name="queries, batches of 2048",
            group="batches",
            lengths=query_lengths,
            texts_per_request=2048,
            num_texts=16_384,
        ),
        *(_large(model) for model in ("bge-base", "bge-large")),
        *(_scaling(10**exponent) for exponent in range(6)),
        *(_load(kind, n, "curve", 3.0) for kind in KINDS for n in CURVE_CONNECTIONS),
    )
}
GROUPS = tuple(dict.fromkeys(workload.group for workload in WORKLOADS.values()))
DEFAULT_GROUPS = ("load", "batches")
"""What fits in a few minutes a contestant."""


def choose_workloads(names: Sequence[str]) -> list[Workload]:
    """Workloads and groups by name, or by the beginning of one. Raises ValueError for what there is not."""
    chosen: dict[str, Workload] = {}
    for name in names:
        found = {w.name: w for w in WORKLOADS.values() if w.group == name or w.name.startswith(name)}
        if not found:
            raise ValueError(f"there is no workload or group {name!r}: groups are {', '.join(GROUPS)}")
        chosen |= found
    return list(chosen.values())
