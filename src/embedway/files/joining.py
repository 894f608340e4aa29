"""Parts → the output: Parquet, JSON lines, NumPy or LanceDB, streamed, and there as a whole or not at all."""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from embedway.errors import FilesNotInstalled, InvalidSetting
from embedway.files.locations import Location
from embedway.files.parts import PartInfo, only_for, scalars
from embedway.files.rows import as_json, as_text

OutputFormat: TypeAlias = Literal["parquet", "jsonl", "npy", "npz", "lance"]
ENDINGS: dict[str, OutputFormat] = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".npy": "npy",
    ".npz": "npz",
    ".lance": "lance",
}
Finished: TypeAlias = "Sequence[tuple[Location, PartInfo]]"


def output_format(output: Location) -> OutputFormat:
    """By its name. Raises InvalidSetting or FilesNotInstalled."""
    found = next((name for ending, name in ENDINGS.items() if output.name.endswith(ending)), None)
    if found is None:
        problem = f"{output.given} must end in {', '.join(ENDINGS)}: it is written in that format"
        raise InvalidSetting(setting="--output", problem=problem)
    if found == "lance":
        if not output.is_local:
            raise InvalidSetting(setting="--output", problem="a LanceDB table is written to a local folder only")
        if importlib.util.find_spec("lancedb") is None:
            raise FilesNotInstalled(what="a LanceDB table", package="lancedb", extra="lance")
    return found


def join(parts: Finished, output: Location, *, key: str, vector: str) -> None:
    """Write the output in the place of what may be there. At least one part has a vector."""
    _WRITERS[output_format(output)](parts, output, key, vector)


def with_vectors(parts: Finished) -> Finished:
    return [(place, info) for place, info in parts if info.stop - info.start > len(info.bad)]


def schema_of(parts: Finished) -> pa.Schema:
    """One for all of them: numbers become wide enough, and columns of several kinds become texts."""
    schemas = [pq.read_schema(place.path, filesystem=place.system).remove_metadata() for place, _ in parts]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive")
    except pa.ArrowException:
        fields: dict[str, pa.Field] = {}
        for field in (field for schema in schemas for field in schema):
            known = fields.setdefault(field.name, field)
            try:
                [fields[field.name]] = pa.unify_schemas(
                    [pa.schema([known]), pa.schema([field])], promote_options="permissive"
                )
            except pa.ArrowException:
                fields[field.name] = pa.field(field.name, pa.string())
        return pa.schema(list(fields.values()))


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
    return pa.array(map(as_text, column.to_pylist()), kind)


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
            others = table.drop_columns(vector).to_pylist()
            for row, own in zip(others, vectors, strict=True):
                line = orjson.dumps({**row, vector: own}, default=as_json, option=orjson.OPT_SERIALIZE_NUMPY)
                stream.write(line + b"\n")


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
        ids = [
            pq.read_table(place.path, filesystem=place.system, columns=[key]).column(key).to_pylist()
            for place, _ in parts
        ]
        flat = np.array([value for own in ids for value in own])
        if flat.dtype == object:
            flat = np.array([str(value) for own in ids for value in own])
        with archive.open("ids.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array(member, flat, allow_pickle=False)
        with archive.open("vectors.npy", "w", force_zip64=True) as member:
            _write_npy_header(member, (len(flat), dimension), kind)
            for place, _ in parts:
                table = pq.read_table(place.path, filesystem=place.system, columns=[vector])
                member.write(matrix_of(table, vector).tobytes())


def _lance(parts: Finished, output: Location, key: str, vector: str) -> None:
    """The table DATABASE/NAME.lance. It is made beside its place, and renamed."""
    del key, vector
    import lancedb

    schema = schema_of(parts := with_vectors(parts))
    place = output.beside(".unfinished-database")
    place.delete()
    batches = (batch for table in tables(parts, schema) for batch in table.to_batches())
    lancedb.connect(place.path).create_table(
        output.name.removesuffix(".lance"), data=pa.RecordBatchReader.from_batches(schema, batches)
    )
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
