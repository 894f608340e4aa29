"""Files → pieces of rows: JSON lines, CSV, Parquet, plain text, and folders of images.

Whatever is read twice gives the same rows in the same order, so that a run can go on at any row.
"""

from __future__ import annotations

import codecs
import csv
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from embedway.errors import InputUnreadable, InvalidSetting
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
MAX_LINE = 64 << 20
"""Bytes of a line: a file without an end of line is not collected"""
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


def find_sources(inputs: Iterable[str], given_format: Format | None) -> list[Source]:
    """A folder stands for the files in it. Raises InvalidSetting or InputUnreadable."""
    sources = [source for given in inputs for source in _sources_of(locate(given, "INPUT"), given_format)]
    names = [source.name for source in sources]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InvalidSetting(setting="INPUT", problem=f"{twice} is there twice")
    return sources


def _sources_of(location: Location, given_format: Format | None) -> list[Source]:
    with readable(location):
        info = location.info
        if info.type == pyarrow.fs.FileType.NotFound:
            raise InputUnreadable(name=location.given, problem="there is no such file or folder")
        if info.type == pyarrow.fs.FileType.File:
            return [_file(location, given_format or format_of(location))]
        files = [file for file in location.children(recursive=True) if not file.name.startswith((".", "_"))]
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


def ending_of(location: Location) -> str:
    name = location.name.lower()
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
        return row

    with source.location.system.open_input_file(source.location.path) as file:
        yield from _pieces(lines := Lines(file), start, piece_rows, parse, lines)


def _text(source: Source, start: int, piece_rows: int) -> Iterator[Piece]:
    with source.location.system.open_input_file(source.location.path) as file:
        yield from _pieces(lines := Lines(file), start, piece_rows, lambda line: {TEXT_COLUMN: line.decode()}, lines)


def _csv(source: Source, start: int, piece_rows: int) -> Iterator[Piece]:
    """All columns are texts: CSV knows no types, and guessed ones change with the rows that are looked at."""
    delimiter = "\t" if ending_of(source.location) == ".tsv" else ","
    csv.field_size_limit(MAX_LINE)
    with source.location.system.open_input_file(source.location.path) as file:
        lines = Lines(file)
        # a line that is no UTF-8 is to spoil its own row only
        decoded = (line.decode("utf-8", "surrogateescape") + "\n" for line in lines)
        records = _records(csv.reader(decoded, delimiter=delimiter, strict=True))
        names = next(records, [])
        if isinstance(names, csv.Error):
            raise InputUnreadable(name=source.name, problem=f"the first line is no CSV: {names}")
        check_names(names, source)

        def parse(record: list[str] | csv.Error) -> dict[str, object]:
            if isinstance(record, csv.Error):
                raise ValueError(f"it is no CSV: {record}")
            if len(record) != len(names):
                raise ValueError(f"it has {len(record)} columns, and the first line {len(names)}")
            try:
                "".join(record).encode()
            except UnicodeEncodeError:
                raise ValueError("it is not UTF-8") from None
            return dict(zip(names, record, strict=True))

        yield from _pieces(records, start, piece_rows, parse, lines)


def _records(reader: Iterator[list[str]]) -> Iterator[list[str] | csv.Error]:
    """Also behind one that is no CSV: a quote that is never closed, or goes on after its end."""
    while (record := _next(reader)) is not None:
        yield record


def _next(reader: Iterator[list[str]]) -> list[str] | csv.Error | None:
    try:
        return next(reader, None)
    except csv.Error as error:
        return error


def check_names(names: Sequence[str], source: Source) -> None:
    """Raises InputUnreadable."""
    if len(set(names)) < len(names):
        raise InputUnreadable(name=source.name, problem="two of its columns have one name")


RecordT = TypeVar("RecordT", bytes, "list[str] | csv.Error")


def _pieces(
    records: Iterable[RecordT],
    start: int,
    piece_rows: int,
    parse: Callable[[RecordT], dict[str, object]],
    lines: Lines,
) -> Iterator[Piece]:
    """Empty records, as empty lines are, are no rows. `parse` raises ValueError for a bad one. They are of `lines`."""
    numbered = enumerate(record for record in records if not is_empty(record))
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
        yield Piece(first, stop, table_of(rows), np.array(numbers, np.int64), tuple(bad), lines.bytes_read)
        first = stop


def is_empty(record: bytes | list[str] | csv.Error) -> bool:
    return not (record.strip() if isinstance(record, bytes) else record)


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
        size += size_of(record)
        if len(batch) == piece_rows or size > MAX_PIECE_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def size_of(record: bytes | list[str] | csv.Error) -> int:
    if isinstance(record, csv.Error):
        return 0
    return len(record) if isinstance(record, bytes) else sum(map(len, record))


class Lines:
    """A file's lines without their ends; what is compressed, unpacked. To be gone through once."""

    def __init__(self, file: pa.NativeFile, block_size: int = 1 << 20) -> None:
        self._file, self._size = file, file.size()
        compression = compression_of(file)
        self._stream = pa.CompressedInputStream(file, compression) if compression else file
        self._block_size = block_size
        self._unpacked = 0
        self._taken = 0
        """Of these bytes, those of the lines that were asked for"""

    @property
    def bytes_read(self) -> int:
        """Of the file, up to the last line; where it is compressed, by that line's share of what was unpacked."""
        read = self._size if self._file.closed else self._file.tell()  # what unpacks it closes it at its end
        return read * self._taken // max(1, self._unpacked)

    def __iter__(self) -> Iterator[bytes]:
        """Raises OSError for a line of more than MAX_LINE bytes."""
        rest = b""
        while block := self._stream.read(self._block_size):
            if not self._unpacked:
                block = block.removeprefix(codecs.BOM_UTF8)
            self._unpacked += len(block)
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                self._taken += len(line) + 1
                yield line.removesuffix(b"\r")
            if len(rest) > MAX_LINE:
                raise OSError(f"a line has more than {MAX_LINE} bytes")
        if rest:
            self._taken += len(rest)
            yield rest.removesuffix(b"\r")


MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}


def compression_of(file: pa.NativeFile) -> str | None:
    """By its first bytes; the file is at its beginning again."""
    start = file.read(4)
    file.seek(0)
    return next((name for magic, name in MAGIC.items() if start.startswith(magic)), None)


def _parquet(source: Source, start: int, piece_rows: int) -> Iterator[Piece]:
    with source.location.system.open_input_file(source.location.path) as file:
        parquet = pq.ParquetFile(file)
        check_names(parquet.schema_arrow.names, source)
        sizes = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
        ends = list(itertools.accumulate(sizes))
        groups = [i for i, end in enumerate(ends) if end > start]
        if not groups:
            return
        first = ends[groups[0]] - sizes[groups[0]]
        for batch in parquet.iter_batches(piece_rows, row_groups=groups):
            table = pa.Table.from_batches([batch]).slice(max(0, start - first))
            first += len(batch)
            if len(table):
                rows = np.arange(first - len(table), first)
                yield Piece(int(rows[0]), first, table, rows, (), source.size * first // max(1, ends[-1]))


def _images(source: Source, start: int, piece_rows: int) -> Iterator[Piece]:
    """A row is an image's path below the folder, and its bytes, which are not kept."""
    below = len(source.location.path) + 1
    first = start
    total = 0
    numbered = ((number, source.files[number].read()) for number in range(start, len(source.files)))
    for batch in batches_of(numbered, piece_rows):
        total += sum(len(data) for _, data in batch)
        paths = [source.files[number].path[below:] for number, _ in batch]
        table = pa.table({"path": paths, IMAGE_COLUMN: pa.array([data for _, data in batch], pa.binary())})
        stop = first + len(batch)
        yield Piece(first, stop, table, np.arange(first, stop), (), total)
        first = stop


_READERS: dict[str, Callable[[Source, int, int], Iterator[Piece]]] = {
    "csv": _csv,
    "parquet": _parquet,
    "text": _text,
    "images": _images,
}
