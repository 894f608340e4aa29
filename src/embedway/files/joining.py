"""Parts → the output: Parquet, JSON lines, NumPy or LanceDB, streamed, and there as a whole or not at all."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from embedway.errors import FilesNotInstalled, InvalidSetting, OutputUnwritable
from embedway.files.locations import Location, writable
from embedway.files.parts import PartInfo, only_for, scalars
from embedway.files.rows import as_json, as_text, texts_of

OutputFormat: TypeAlias = Literal["parquet", "jsonl", "npy", "npz", "lance"]
ENDINGS: dict[str, OutputFormat] = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".npy": "npy",
    ".npz": "npz",
    ".lance": "lance",
}
LANCE_NAME = re.compile(r"[\w.-]+\.lance", re.ASCII)
Finished: TypeAlias = "Sequence[tuple[Location, PartInfo]]"


def output_format(output: Location) -> OutputFormat:
    """By its name. Raises InvalidSetting, also where it cannot be replaced, or FilesNotInstalled."""
    found = next((name for ending, name in ENDINGS.items() if output.name.endswith(ending)), None)
    if found is None:
        problem = f"{output.given} must end in {', '.join(ENDINGS)}: it is written in that format"
        raise InvalidSetting(setting="--output", problem=problem)
    if found == "lance":
        if not output.is_local:
            raise InvalidSetting(setting="--output", problem="a LanceDB table is written to a local folder only")
        if importlib.util.find_spec("lancedb") is None:
            raise FilesNotInstalled(what="a LanceDB table", package="lancedb", extra="lance")
        if not LANCE_NAME.fullmatch(output.name):
            problem = f"{output.given} is no name of a LanceDB table: it may have letters, digits, _, - and ."
            raise InvalidSetting(setting="--output", problem=problem)
    with writable(output):
        is_folder = output.info.type == pyarrow.fs.FileType.Directory
        if is_folder and not (found == "lance" and output.child("_versions").exists):
            what = "a folder, and no LanceDB table" if found == "lance" else "a folder"
            raise InvalidSetting(setting="--output", problem=f"{output.given} is {what}: it is not replaced")
    return found


def check_columns(output: Location, schema: pa.Schema) -> None:
    """Raises InvalidSetting for what would make the output fail at the end of the run."""
    with_dot = next((name for name in schema.names if "." in name), None)
    if with_dot is not None and output_format(output) == "lance":
        raise InvalidSetting(
            setting="--columns", problem=f"{with_dot!r} cannot be a column of LanceDB, for its dot: choose others"
        )


def join(parts: Finished, output: Location, *, key: str, vector: str) -> None:
    """Write the output in the place of what may be there. At least one part has a vector."""
    _WRITERS[output_format(output)](parts, output, key, vector)


def with_vectors(parts: Finished) -> Finished:
    return [(place, info) for place, info in parts if info.num_good]


def schema_of(parts: Finished) -> pa.Schema:
    """One for all of them: numbers become wide enough, and columns of several kinds become texts."""
    fields: dict[str, dict[pa.DataType, list[Location]]] = {}
    for place, _ in parts:
        for field in pq.read_schema(place.path, filesystem=place.system):
            fields.setdefault(field.name, {}).setdefault(field.type, []).append(place)
    return pa.schema([pa.field(name, _common_type(name, kinds)) for name, kinds in fields.items()])


def _common_type(name: str, kinds: dict[pa.DataType, list[Location]]) -> pa.DataType:
    """One that all values of a column have or can be made into without loss."""
    try:
        schemas = [pa.schema([pa.field(name, kind)]) for kind in kinds]
        common = pa.unify_schemas(schemas, promote_options="permissive").field(name).type
        for kind, places in kinds.items():
            for place in places if kind not in (common, pa.null()) else ():
                pq.read_table(place.path, filesystem=place.system, columns=[name]).column(name).cast(common)
    except pa.ArrowException:  # a large integer is no float64, for one
        return pa.string()
    return common


def tables(parts: Finished, schema: pa.Schema) -> Iterator[pa.Table]:
    for place, _ in parts:
        table = pq.read_table(place.path, filesystem=place.system)
        columns = [
            _as_type(table.column(field.name), field.type)
            if field.name in table.column_names
            else pa.nulls(len(table), field.type)
            for field in schema
        ]
        yield pa.table(columns, schema=schema)


def _as_type(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray | pa.Array:
    if column.type == kind or not pa.types.is_string(kind):
        return column.cast(kind)
    return texts_of(python_values(column))


def python_values(column: pa.ChunkedArray) -> list[object]:
    """As Python has them; moments that it cannot have, for they are too fine or too far, as texts."""
    kind = column.type
    if not (pa.types.is_timestamp(kind) or pa.types.is_time(kind)):
        return column.to_pylist()
    if kind.unit != "ns":
        with contextlib.suppress(ValueError, OverflowError):
            return column.to_pylist()
    return [text and text.replace(" ", "T", 1) for text in column.cast(pa.string()).to_pylist()]


def _parquet(parts: Finished, output: Location, key: str, vector: str) -> None:
    del key, vector
    schema = schema_of(parts := with_vectors(parts))
    options = only_for(scalars(schema))
    with output.written() as stream, pq.ParquetWriter(stream, schema, compression="zstd", **options) as writer:
        for table in tables(parts, schema):
            writer.write_table(table)


def _jsonl(parts: Finished, output: Location, key: str, vector: str) -> None:
    del key
    with output.written() as stream:
        for table in tables(filled := with_vectors(parts), schema_of(filled)):
            vectors = matrix_of(table, vector)
            names = table.column_names
            columns = [vectors if name == vector else python_values(table.column(name)) for name in names]
            for row in zip(*columns, strict=True):
                values = dict(zip(names, row, strict=True))
                stream.write(orjson.dumps(values, default=as_json, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")


def _npy(parts: Finished, output: Location, key: str, vector: str) -> None:
    """Row i is that of the input; where it has no vector it is NaN, or zero in a type that has none."""
    del key
    kind, dimension = _vector_form(parts, vector)
    num_rows = sum(info.stop - info.start for _, info in parts)
    with output.written() as stream:
        _write_npy_header(cast("IO[bytes]", stream), (num_rows, dimension), kind)
        for place, info in parts:
            rows = np.full((info.stop - info.start, dimension), np.nan if kind.kind == "f" else 0, kind)
            is_good = np.ones(len(rows), np.bool_)
            is_good[[bad.row - info.start for bad in info.bad]] = False
            if is_good.any():
                rows[is_good] = matrix_of(pq.read_table(place.path, filesystem=place.system, columns=[vector]), vector)
            stream.write(rows.tobytes())


def _npz(parts: Finished, output: Location, key: str, vector: str) -> None:
    """`ids` and `vectors`, of the rows that have one."""
    parts = with_vectors(parts)
    kind, dimension = _vector_form(parts, vector)
    with output.written() as stream, zipfile.ZipFile(cast("IO[bytes]", stream), "w", allowZip64=True) as archive:
        ids = _ids(parts, key)
        with archive.open("ids.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array(member, ids, allow_pickle=False)
        with archive.open("vectors.npy", "w", force_zip64=True) as member:
            _write_npy_header(member, (len(ids), dimension), kind)
            for place, _ in parts:
                table = pq.read_table(place.path, filesystem=place.system, columns=[vector])
                member.write(matrix_of(table, vector).tobytes())


def _ids(parts: Finished, key: str) -> npt.NDArray[np.generic]:
    """[n]: numbers where all are, else texts, empty for null."""
    kind = schema_of(parts).field(key).type
    columns = [
        _as_type(pq.read_table(place.path, filesystem=place.system, columns=[key]).column(key), kind)
        for place, _ in parts
    ]
    are_numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if are_numbers and not any(column.null_count for column in columns):
        return np.concatenate([column.to_numpy() for column in columns])
    return np.array([as_text(value) or "" for column in columns for value in python_values(column)], np.str_)


def _lance(parts: Finished, output: Location, key: str, vector: str) -> None:
    """The table DATABASE/NAME.lance. It is made beside its place, and renamed."""
    del key, vector
    import lancedb

    schema = schema_of(parts := with_vectors(parts))
    place = output.beside(".unfinished-database")
    place.delete()
    batches = (batch for table in tables(parts, schema) for batch in table.to_batches())
    try:
        lancedb.connect(place.path).create_table(
            output.name.removesuffix(".lance"), data=pa.RecordBatchReader.from_batches(schema, batches)
        )
    except (RuntimeError, ValueError, OSError) as error:
        place.delete()
        problem = str(error).partition(", /")[0]  # the rest is where it stands in LanceDB's sources
        raise OutputUnwritable(name=output.given, problem=problem) from error
    output.delete()
    place.child(output.name).put_at(output)
    place.delete()


def matrix_of(table: pa.Table, vector: str) -> npt.NDArray[np.generic]:
    """[n, dimension] of the vectors' type"""
    column = table.column(vector).combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    size = column.type.list_size
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, size)


def _vector_form(parts: Finished, vector: str) -> tuple[np.dtype[np.generic], int]:
    """The type and length of the vectors."""
    place, _ = with_vectors(parts)[0]
    kind = pq.read_schema(place.path, filesystem=place.system).field(vector).type
    return np.dtype(kind.value_type.to_pandas_dtype()), kind.list_size


def _write_npy_header(stream: IO[bytes], shape: tuple[int, int], kind: np.dtype[np.generic]) -> None:
    description = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(stream, description)


_WRITERS: dict[OutputFormat, Callable[[Finished, Location, str, str], None]] = {
    "parquet": _parquet,
    "jsonl": _jsonl,
    "npy": _npy,
    "npz": _npz,
    "lance": _lance,
}
