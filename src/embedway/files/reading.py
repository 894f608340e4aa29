"""Files → pieces of rows: JSON lines, CSV, Parquet, plain text, and folders of images.

Whatever is read twice gives the same rows in the same order, so that a run can go on at any row.
"""

from __future__ import annotations

import csv
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from embedway.errors import InputUnreadable, InvalidSetting
from embedway.files.lines import MAX_LINE, Lines
from embedway.files.locations import Location, locate, readable
from embedway.files.rows import BadRow, Piece, table_of
from embedway.inputs.json_types import describe_json_type

Format: TypeAlias = Literal["jsonl", "csv", "parquet", "text", "images"]
ENDINGS: dict[str, Format] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".jsonlines"), "jsonl"),
    **dict.fromkeys((".csv", ".tsv"), "csv"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".txt", ".text", ".md"), "text"),
}
COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
IMAGE_COLUMN, TEXT_COLUMN = "image", "text"
MAX_WRITTEN_DEPTH = 250
"""Of JSON: orjson reads deeper values than it writes, and they may have to be written"""
MAX_PIECE_BYTES = 32 << 20
"""Of a piece's lines or images: it ends sooner than its number of rows asks for"""


@dataclass(frozen=True)
class Source:
    """A file to be read, or a folder's images."""

    location: Location
    format: Format
    size: int
    """Bytes of it, or of all images"""
    identity: str
    """Changes with its content: by size and time, as far as its file system knows these"""
    files: tuple[Location, ...] = ()
    """The images"""

    @property
    def name(self) -> str:
        return self.location.given

    def name_of(self, row: int) -> str:
        """Of the file that has the row."""
        return self.files[row].given if self.files else self.name


def find_sources(
    inputs: Iterable[str], given_format: Format | None, is_own: Callable[[Location], bool] = lambda _: False
) -> list[Source]:
    """A folder stands for the files in it, but for the run's own. Raises InvalidSetting or InputUnreadable."""
    sources = [source for given in inputs for source in _sources_of(locate(given, "INPUT"), given_format, is_own)]
    counts = Counter(source.location.path for source in sources)
    if twice := next((source.name for source in sources if counts[source.location.path] > 1), None):
        raise InvalidSetting(setting="INPUT", problem=f"{twice} is there twice")
    return sources


def _sources_of(location: Location, given_format: Format | None, is_own: Callable[[Location], bool]) -> list[Source]:
    with readable(location):
        info = location.info
        if info.type == pyarrow.fs.FileType.NotFound:
            raise InputUnreadable(name=location.given, problem="there is no such file or folder")
        if info.type == pyarrow.fs.FileType.File:
            if is_own(location):
                raise InvalidSetting(setting="--output", problem=f"{location.given} is an input: write another file")
            if given_format == "images":
                problem = f"{location.given} is no folder: images are the files of one"
                raise InvalidSetting(setting="--input-format", problem=problem)
            return [_file(location, given_format or format_of(location))]
        files = [
            file
            for file in location.children(recursive=True)
            if not file.name.startswith((".", "_")) and not is_own(file)
        ]
        images = tuple(file for file in files if file.name.lower().endswith(IMAGES))
        others = [file for file in files if ending_of(file) in ENDINGS]
        if given_format == "images" or (given_format is None and images and not others):
            return [_folder(location, images)]
        if images and given_format is None:
            problem = "has both images and other files: choose with --input-format"
            raise InvalidSetting(setting=f"INPUT {location.given}", problem=problem)
        chosen = [file for file in others if given_format in (None, format_of(file))]
    if not chosen:
        raise InputUnreadable(name=location.given, problem="the folder has no file that can be read here")
    return [_file(file, format_of(file)) for file in chosen]


def _file(location: Location, file_format: Format) -> Source:
    info = location.info
    return Source(location, file_format, info.size or 0, _identity(info))


def _folder(location: Location, images: tuple[Location, ...]) -> Source:
    if not images:
        raise InputUnreadable(name=location.given, problem="the folder has no images")
    infos = location.system.get_file_info([image.path for image in images])
    identity = ",".join(f"{info.path}:{_identity(info)}" for info in infos)
    return Source(location, "images", sum(info.size or 0 for info in infos), identity, images)


def _identity(info: pyarrow.fs.FileInfo) -> str:
    return f"{info.size}:{info.mtime_ns}"


def is_named_as_rows(name: str) -> bool:
    """Whether a name ends as a file that is read row by row."""
    return _ending(name) in ENDINGS


def ending_of(location: Location) -> str:
    return _ending(location.name)


def _ending(name: str) -> str:
    name = name.lower()
    name = next((name[: -len(ending)] for ending in COMPRESSED if name.endswith(ending)), name)
    return f".{name.rpartition('.')[2]}"


def format_of(location: Location) -> Format:
    """By its name. Raises InvalidSetting."""
    found = ENDINGS.get(ending_of(location))
    if found is None:
        known = ", ".join(ENDINGS)
        problem = f"the name does not tell the format: it ends in none of {known}; say it with --input-format"
        raise InvalidSetting(setting=f"INPUT {location.given}", problem=problem)
    return found


# ── pieces ──


def read_pieces(source: Source, start: int, piece_rows: int, text_column: str = TEXT_COLUMN) -> Iterator[Piece]:
    """The rows from number `start` on, at most `piece_rows` a piece. Raises InputUnreadable, also in between.

    A text of JSON that is none is a bad row here already: it has no place in a column of texts.
    """
    with readable(source.location):
        if source.format == "jsonl":
            yield from _jsonl(source, start, piece_rows, text_column)
        else:
            yield from _READERS[source.format](source, start, piece_rows)


def _jsonl(source: Source, start: int, piece_rows: int, text_column: str) -> Iterator[Piece]:
    def parse(line: bytes) -> dict[str, object]:
        row = orjson.loads(line)
        if not isinstance(row, dict):
            raise ValueError("it is no JSON object")
        if not isinstance(row.get(text_column), str):
            got = describe_json_type(row[text_column]) if text_column in row else "nothing"
            raise ValueError(f"{text_column!r} must be a string, and is {got}")
        if line.count(b"[") + line.count(b"{") > MAX_WRITTEN_DEPTH:
            try:
                orjson.dumps(row)
            except TypeError as error:
                raise ValueError("it is nested too deeply") from error
        return row

    with source.location.system.open_input_file(source.location.path) as file:
        lines = Lines(file)
        yield from _pieces((line for line in lines if line.strip()), start, piece_rows, parse, lines)


def _text(source: Source, start: int, piece_rows: int) -> Iterator[Piece]:
    with source.location.system.open_input_file(source.location.path) as file:
        lines = Lines(file)
        yield from _pieces(lines, start, piece_rows, lambda line: {TEXT_COLUMN: line.decode()}, lines)


def _csv(source: Source, start: int, piece_rows: int) -> Iterator[Piece]:
    """All columns are texts: CSV knows no types, and guessed ones change with the rows that are looked at."""
    delimiter = "\t" if ending_of(source.location) == ".tsv" else ","
    csv.field_size_limit(MAX_LINE)
    with source.location.system.open_input_file(source.location.path) as file:
        lines = Lines(file)
        # a line that is no UTF-8 is to spoil its own row only
        records = csv.reader((line.decode("utf-8", "surrogateescape") + "\n" for line in lines), delimiter=delimiter)

        def whole() -> Iterator[list[str]]:
            begins_at = 1
            try:
                for record in records:
                    if lines.have_ended:  # the reader looks beyond the last line only for the end of a quote
                        problem = f"a quote that opens at line {begins_at} or later has no end"
                        raise InputUnreadable(name=source.name, problem=problem)
                    yield record
                    begins_at = records.line_num + 1
            except csv.Error as error:
                raise InputUnreadable(
                    name=source.name, problem=f"line {records.line_num} is no CSV: {error}"
                ) from error

        rows = whole()
        names = next(rows, [])
        if not _is_utf8(names):
            raise InputUnreadable(name=source.name, problem="its first line, the names of the columns, is no UTF-8")
        _check_names(names)

        def parse(record: list[str]) -> dict[str, object]:
            if len(record) != len(names):
                raise ValueError(f"it has {len(record)} columns, and the first line {len(names)}")
            if not _is_utf8(record):
                raise ValueError("it is no UTF-8")
            return dict(zip(names, record, strict=True))

        yield from _pieces(rows, start, piece_rows, parse, lines)


def _is_utf8(texts: Iterable[str]) -> bool:
    """Of what was decoded with `surrogateescape`."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_names(names: Sequence[str]) -> None:
    """Raises ArrowInvalid: the output has a column of each name."""
    if twice := next((name for name, count in Counter(names).items() if count > 1), None):
        raise pa.ArrowInvalid(f"two of its columns are called {twice!r}")


RecordT = TypeVar("RecordT", bytes, "list[str]")


def _pieces(
    records: Iterable[RecordT],
    start: int,
    piece_rows: int,
    parse: Callable[[RecordT], dict[str, object]],
    lines: Lines,
) -> Iterator[Piece]:
    """Empty records, as empty lines are, are no rows. `parse` raises ValueError for a bad one."""
    numbered = enumerate(record for record in records if record)
    first = start
    for batch in batches_of(itertools.islice(numbered, start, None), piece_rows):
        rows, numbers, bad = [], [], []
        for number, record in batch:
            row = _parsed(record, parse)
            if isinstance(row, ValueError):
                bad.append(BadRow(number, f"the row cannot be read: {row}"))
            else:
                rows.append(row)
                numbers.append(number)
        stop = first + len(batch)
        yield Piece(first, stop, table_of(rows), np.array(numbers, np.int64), tuple(bad), lines.position)
        first = stop


def _parsed(record: RecordT, parse: Callable[[RecordT], dict[str, object]]) -> dict[str, object] | ValueError:
    try:
        return parse(record)
    except ValueError as error:  # no JSON, or no UTF-8
        return error


def batches_of(numbered: Iterator[tuple[int, RecordT]], piece_rows: int) -> Iterator[list[tuple[int, RecordT]]]:
    batch: list[tuple[int, RecordT]] = []
    size = 0
    for number, record in numbered:
        batch.append((number, record))
        size += len(record) if isinstance(record, bytes) else sum(map(len, record))
        if len(batch) == piece_rows or size > MAX_PIECE_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _parquet(source: Source, start: int, piece_rows: int) -> Iterator[Piece]:
    with source.location.system.open_input_file(source.location.path) as file:
        parquet = pq.ParquetFile(file)
        _check_names(parquet.schema_arrow.names)
        sizes = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
        ends = list(itertools.accumulate(sizes))
        groups = [i for i, end in enumerate(ends) if end > start]
        if not groups:
            return
        first = ends[groups[0]] - sizes[groups[0]]
        for batch in parquet.iter_batches(piece_rows, row_groups=groups):
            table = pa.Table.from_batches([batch]).slice(max(0, start - first))
            _check_texts(table, first)
            first += len(batch)
            if len(table):
                rows = np.arange(first - len(table), first)
                yield Piece(int(rows[0]), first, table, rows, (), source.size * first // max(1, ends[-1]))


def _check_texts(table: pa.Table, first: int) -> None:
    """Raises ArrowInvalid for a text that is no UTF-8: Parquet's reader does not look at them."""
    try:
        table.validate(full=True)
    except pa.ArrowInvalid as error:
        raise pa.ArrowInvalid(f"in the rows from {first} on: {error}") from error


def _images(source: Source, start: int, piece_rows: int) -> Iterator[Piece]:
    """A row is an image's path below the folder, and its bytes, which are not kept."""
    below = len(source.location.path) + 1
    first = start
    numbered = ((number, _content(source.files[number])) for number in range(start, len(source.files)))
    for batch in batches_of(numbered, piece_rows):
        paths = [source.files[number].path[below:] for number, _ in batch]
        table = pa.table({"path": paths, IMAGE_COLUMN: pa.array([data for _, data in batch], pa.binary())})
        stop = first + len(batch)
        position = source.size * stop // len(source.files)
        yield Piece(first, stop, table, np.arange(first, stop), (), position)
        first = stop


def _content(file: Location) -> bytes:
    """Raises InputUnreadable."""
    with readable(file):
        return file.read()


_READERS: dict[str, Callable[[Source, int, int], Iterator[Piece]]] = {
    "csv": _csv,
    "parquet": _parquet,
    "text": _text,
    "images": _images,
}
