"""One run: read, prepare, compute and write, each beside the others; then the output.

Reading and preparing have a thread each, and writing one. What waits between them is a piece or two, so that memory is
bounded whatever the input's size.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import orjson
import pyarrow as pa

from embedway.errors import InvalidSetting, InvalidValue, RowFailed
from embedway.files.joining import check_columns, join, with_vectors
from embedway.files.locations import TEMPORARY, Location, writable
from embedway.files.parts import PartInfo, Parts
from embedway.files.reading import Source, read_pieces
from embedway.files.rows import BadRow
from embedway.files.texts import DEFAULT_KEY, Columns, Work, work_of
from embedway.files.vectors import Embedded, Vectors
from embedway.outputs.vector_types import OutputDtype, finish

ERRORS_ENDING = ".errors.jsonl"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class VectorForm:
    """What vectors are made into."""

    dimensions: int | None = None
    normalize: bool = True
    output_dtype: OutputDtype = "float32"


@dataclass(frozen=True)
class Plan:
    """What a run is to do."""

    sources: Sequence[Source]
    output: Location
    columns: Columns
    form: VectorForm
    piece_rows: int
    fail_fast: bool = False
    manifest: Mapping[str, Any] = field(default_factory=dict)
    """All that changes rows or vectors: a run goes on with the parts of an equal one only"""

    def bytes_until(self, number: int, bytes_read: int) -> int:
        """Of the input, to this byte of source `number`."""
        return sum(own.size for own in self.sources[:number]) + min(bytes_read, self.sources[number].size)


@dataclass(slots=True)
class Progress:
    """How far a run is. Written by the run, read by whoever shows it."""

    total_bytes: int
    bytes_before: int = 0
    """Of what an earlier run has finished"""
    bytes_done: int = 0
    rows: int = 0
    """That this run has given vectors"""
    rows_before: int = 0
    """That an earlier one had given"""
    tokens: int = 0
    bad: int = 0
    """Rows without a vector, of all runs"""


@dataclass(frozen=True, slots=True)
class _Prepared:
    source: int
    work: Work
    content: Any


def run(plan: Plan, vectors: Vectors, progress: Progress, on_progress: Callable[[], object] = lambda: None) -> None:
    """Go on where the last run ended, or begin; at the end, the output is there and the parts are not.

    Raises InvalidSetting, InputUnreadable, OutputUnwritable, RowFailed with `fail_fast`, and what `vectors` raises.
    """
    parts = Parts(plan.output)
    parts.begin(plan.manifest)
    number, source, start, last_good = 0, 0, 0, 0
    for _, info in parts.finished():
        number, source, start = number + 1, info.source, info.stop
        progress.rows_before += info.num_good
        progress.bad += len(info.bad)
        progress.bytes_before = progress.bytes_done = plan.bytes_until(source, info.bytes_read)
        last_good = number if info.num_good else last_good
    kind = parts.vector_type(last_good - 1, plan.columns.vector) if last_good else None
    with ThreadPoolExecutor(1, thread_name_prefix="write") as writer:
        writing: Future[None] | None = None
        with (
            contextlib.closing(ahead(_read(plan, source, start))) as read,
            contextlib.closing(ahead(_prepared(vectors, read))) as ready,
        ):
            for prepared in ready:
                embedded = vectors.embed(prepared.content)
                table, info = _part(plan, prepared, embedded)
                if plan.fail_fast and info.bad:
                    bad = info.bad[0]
                    name = plan.sources[info.source].name_of(bad.row)
                    raise RowFailed(name=name, row=bad.row, reason=bad.reason)
                if info.num_good:
                    kind = _same_type(kind, table.schema.field(plan.columns.vector).type)
                check_columns(plan.output, table.schema)
                if writing is not None:
                    writing.result()
                writing = writer.submit(parts.write, number, table, info)
                number += 1
                progress.rows += len(table)
                progress.tokens += info.num_tokens
                progress.bad += len(info.bad)
                progress.bytes_done = plan.bytes_until(info.source, info.bytes_read)
                on_progress()
        if writing is not None:
            writing.result()
    with writable(plan.output):
        _finish(plan, parts)


def is_own(output: Location, file: Location) -> bool:
    """Whether a run with this output writes, or wrote, that file: nothing that a folder of inputs has."""
    own = (output.path, *(output.beside(ending).path for ending in (ERRORS_ENDING, TEMPORARY)))
    is_part = file.path.startswith(Parts(output).folder.path + "/")
    return file.system.type_name == output.system.type_name and (file.path in own or is_part)


def _read(plan: Plan, first_source: int, start: int) -> Iterator[tuple[int, Work]]:
    is_alone = len(plan.sources) == 1
    for number in range(first_source, len(plan.sources)):
        source = plan.sources[number]
        for piece in read_pieces(source, start, plan.piece_rows, plan.columns.text):
            is_first = number == piece.start == 0
            yield number, work_of(piece, source, plan.columns, is_alone=is_alone, is_first=is_first)
        start = 0


def _prepared(vectors: Vectors, read: Iterable[tuple[int, Work]]) -> Iterator[_Prepared]:
    for number, work in read:
        yield _Prepared(number, work, vectors.prepare(work.items))


def _part(plan: Plan, prepared: _Prepared, embedded: Embedded) -> tuple[pa.Table, PartInfo]:
    """Raises InvalidSetting where the vectors cannot have the type."""
    work, form = prepared.work, plan.form
    good = np.array([i for i in range(len(work.items)) if i not in embedded.faults], np.int64)
    kept = work.kept if len(good) == len(work.items) else work.kept.take(pa.array(good))
    bad = [*work.bad, *(BadRow(int(work.rows[i]), reason) for i, reason in embedded.faults.items())]
    bad.sort(key=lambda row: row.row)
    vectors = embedded.vectors[good]
    table = kept
    if len(good):
        try:
            finished = finish(
                vectors, dimensions=form.dimensions, normalize=form.normalize, output_dtype=form.output_dtype
            )
        except InvalidValue as error:  # a server's vectors: those of a model here are known before
            raise InvalidSetting(setting="--output-dtype", problem=error.message) from error
        column = pa.FixedSizeListArray.from_arrays(pa.array(finished.reshape(-1)), finished.shape[1])
        table = kept.append_column(plan.columns.vector, column)
    piece = work.piece
    info = PartInfo(
        prepared.source,
        piece.start,
        piece.stop,
        embedded.num_tokens,
        bytes_read=piece.bytes_read,
        is_numbered=work.is_numbered,
        bad=tuple(bad),
    )
    return table, info


def _same_type(before: pa.DataType | None, now: pa.DataType) -> pa.DataType:
    """Raises InvalidSetting: a server has another model than it had."""
    if before not in (None, now):
        problem = f"its vectors were {before} in the parts before, and are {now}: --restart drops those parts"
        raise InvalidSetting(setting="--url", problem=problem)
    return now


def _finish(plan: Plan, parts: Parts) -> None:
    finished = list(parts.finished())
    if not with_vectors(finished):
        problem = f"there are no rows in {', '.join(source.name for source in plan.sources[:3])}"
        if finished:
            _, info = finished[0]
            bad = info.bad[0]
            name = plan.sources[info.source].name_of(bad.row)
            problem = f"no row has a vector; {name}, row {bad.row}: {bad.reason}"
        parts.drop()
        raise InvalidSetting(setting="INPUT", problem=problem)
    key = plan.columns.key or DEFAULT_KEY
    parts.take_numbers_away(key)
    errors = plan.output.beside(ERRORS_ENDING)
    if any(info.bad for _, info in finished):
        with errors.written() as stream:
            for line in error_lines(plan.sources, finished):
                stream.write(line)
    else:
        errors.delete()
    join(finished, plan.output, key=key, vector=plan.columns.vector)
    parts.drop()


def error_lines(sources: Sequence[Source], finished: Iterable[tuple[Location, PartInfo]]) -> Iterator[bytes]:
    for _, info in finished:
        for bad in info.bad:
            name = sources[info.source].name_of(bad.row)
            yield orjson.dumps({"input": name, "row": bad.row, "error": bad.reason}) + b"\n"


def ahead(items: Iterable[T], depth: int = 1) -> Generator[T]:
    """The items, made in a thread of their own, at most `depth` of them before they are asked for."""
    ready: queue.Queue[tuple[T] | None] = queue.Queue(depth)
    failure: list[BaseException] = []
    stopped = threading.Event()

    def put(entry: tuple[T] | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put(entry, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def make() -> None:
        try:
            for item in items:
                if not put((item,)):
                    return
        except BaseException as error:
            failure.append(error)
        put(None)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while (entry := ready.get()) is not None:
            yield entry[0]
    finally:
        stopped.set()
        thread.join()
    if failure:
        raise failure[0]
