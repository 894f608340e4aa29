"""What a run has finished: parts in a folder beside its output, each whole or not there, so that a killed run goes on.

A part is a Parquet file of consecutive rows of one source, with their vectors; its metadata say which rows, and what is
wrong with those that have none. Parts are written in the order of the input: the first that is missing is where to go
on. A manifest says what the parts are of: another input, model or option does not go on with them.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import filelock
import pyarrow as pa
import pyarrow.parquet as pq

from embedway.errors import InvalidSetting, OutputUnwritable
from embedway.files.locations import Location, readable, writable
from embedway.files.rows import BadRow

ENDING = ".parts"
MANIFEST, LOCK = "manifest.json", "lock"
METADATA = b"embedway"


@dataclass(frozen=True, slots=True)
class PartInfo:
    """Rows `start … stop - 1` of a source."""

    source: int
    """Its number among the run's"""
    start: int
    stop: int
    num_tokens: int
    bytes_read: int = 0
    """Of the source, to the end of these rows"""
    is_numbered: bool = False
    """Its keys are the rows' numbers"""
    bad: tuple[BadRow, ...] = ()

    @property
    def num_good(self) -> int:
        return self.stop - self.start - len(self.bad)

    def as_metadata(self) -> dict[bytes, bytes]:
        return {METADATA: json.dumps(asdict(self)).encode()}

    @classmethod
    def of(cls, schema: pa.Schema) -> PartInfo:
        fields = json.loads(schema.metadata[METADATA])
        bad = tuple(BadRow(**row) for row in fields.pop("bad"))
        return cls(**fields, bad=bad)


class Parts:
    """Of one output. `locked` while they are used."""

    def __init__(self, output: Location) -> None:
        self.folder = output.beside(ENDING)

    @contextlib.contextmanager
    def locked(self) -> Generator[None]:
        """Raises InvalidSetting where another process of this machine is at them."""
        if not self.folder.is_local:
            self._clear()
            yield
            return
        lock = filelock.FileLock(self.folder.child(LOCK).path, timeout=0)
        with writable(self.folder):
            Path(self.folder.path).mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire()
            except filelock.Timeout:
                name = self.folder.given.removesuffix(ENDING)
                raise InvalidSetting(setting="--output", problem=f"another run is writing {name}") from None
        try:
            self._clear()
            yield
        finally:
            try:
                with contextlib.suppress(OSError, OutputUnwritable):
                    self._clear()
                    # while it is held: who locks a file without a name sees that, and another run's is not taken away
                    Path(self.folder.child(LOCK).path).unlink(missing_ok=True)
            finally:
                lock.release()
            with contextlib.suppress(OSError):  # there are parts, or another run
                Path(self.folder.path).rmdir()

    def _clear(self) -> None:
        if not self.has_begun:
            self.drop()

    @property
    def has_begun(self) -> bool:
        """Whether there is anything to go on with: a manifest alone binds nobody to its options."""
        return self.folder.child(MANIFEST).exists and self.folder.child(name_of(0)).exists

    def manifest(self) -> dict[str, Any]:
        """Of what is there to go on with, empty where there is nothing. Raises InputUnreadable or InvalidSetting."""
        place = self.folder.child(MANIFEST)
        if not self.has_begun:
            return {}
        try:
            with readable(place):
                return json.loads(place.read())
        except json.JSONDecodeError as error:
            raise InvalidSetting(setting="--output", problem=f"{place.given} is broken: --restart drops it") from error

    def begin(self, manifest: Mapping[str, Any]) -> None:
        """Go on with what is there, or begin. Raises InvalidSetting where that is of something else."""
        place = self.folder.child(MANIFEST)
        wanted = json.loads(json.dumps(manifest))
        found = self.manifest()
        if not found:
            with writable(self.folder):
                self.folder.system.create_dir(self.folder.path)
                with place.written() as stream:
                    stream.write(json.dumps(wanted, indent=1).encode())
            return
        different = [name for name in wanted if found.get(name) != wanted[name]]
        if different:
            problem = f"{self.folder.given} is an unfinished run with other {', '.join(different)}: --restart drops it"
            raise InvalidSetting(setting="--output", problem=problem)

    def finished(self) -> Iterator[tuple[Location, PartInfo]]:
        """In their order."""
        names = {location.name for location in self.folder.children()}
        for number in itertools.count():
            if (name := name_of(number)) not in names:
                return
            place = self.folder.child(name)
            with readable(place):
                info = PartInfo.of(pq.read_schema(place.path, filesystem=place.system))
            yield place, info

    def write(self, number: int, table: pa.Table, info: PartInfo) -> None:
        """Raises OutputUnwritable."""
        place = self.folder.child(name_of(number))
        with writable(place), place.written() as stream:
            with_info = table.replace_schema_metadata(info.as_metadata())
            pq.write_table(with_info, stream, compression="lz4", **only_for(scalars(table.schema)))

    def vector_type(self, number: int, vector: str) -> pa.DataType:
        """Of a part that has vectors."""
        place = self.folder.child(name_of(number))
        return pq.read_schema(place.path, filesystem=place.system).field(vector).type

    def take_numbers_away(self, key: str) -> None:
        """Where a source has keys in some parts only: in one part, too, a row without one has null beside others."""
        finished = list(self.finished())
        named = {info.source for _, info in finished if not info.is_numbered and info.num_good}
        for number, (place, info) in enumerate(finished):
            if info.is_numbered and info.source in named:
                table = pq.read_table(place.path, filesystem=place.system)
                keys = table.column_names.index(key)
                table = table.set_column(keys, key, pa.nulls(len(table)))
                self.write(number, table, replace(info, is_numbered=False))

    def drop(self) -> None:
        """All of them, the manifest first: what a drop that was killed has left is nobody's, and not gone on with."""
        with writable(self.folder):
            self.folder.child(MANIFEST).delete()
            for place in self.folder.children():
                if place.name != LOCK:
                    place.delete()
            if not self.folder.is_local:
                self.folder.delete()


def scalars(schema: pa.Schema) -> list[str]:
    """All columns but vectors, which a dictionary of their numbers makes no shorter."""
    return [field.name for field in schema if not pa.types.is_fixed_size_list(field.type)]


def only_for(columns: list[str]) -> dict[str, Any]:
    """Options of Parquet's writer."""
    return {"use_dictionary": columns or False, "write_statistics": columns or False}


def name_of(number: int) -> str:
    return f"part-{number:08d}.parquet"
