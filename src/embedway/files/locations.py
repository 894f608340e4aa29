"""Where files are: a path or URL → a file system and a path in it, and files that appear whole or not at all.

Arrow reads local paths, `s3://`, `gs://`, `abfs://` and `hdfs://` by itself; all else is fsspec's, as far as that has
the package for it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.fs

from embedway.errors import InputUnreadable, InvalidSetting, OutputUnwritable

TEMPORARY = ".unfinished"
"""At the end of a file's name until it is whole"""


@dataclass(frozen=True)
class Location:
    """A file or folder that may be there or not."""

    given: str
    """As the user calls it"""
    system: pyarrow.fs.FileSystem
    path: str
    """In its file system"""

    @property
    def is_local(self) -> bool:
        return isinstance(self.system, pyarrow.fs.LocalFileSystem)

    @property
    def info(self) -> pyarrow.fs.FileInfo:
        return self.system.get_file_info(self.path)

    @property
    def exists(self) -> bool:
        return self.info.type != pyarrow.fs.FileType.NotFound

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def beside(self, ending: str) -> Location:
        """Its neighbour whose name has this ending more."""
        return Location(self.given + ending, self.system, self.path + ending)

    def child(self, name: str) -> Location:
        return Location(f"{self.given}/{name}", self.system, f"{self.path}/{name}")

    def children(self, *, recursive: bool = False) -> list[Location]:
        """The files in this folder, and where `recursive` also in those below, by their names."""
        selector = pyarrow.fs.FileSelector(self.path, recursive=recursive, allow_not_found=True)
        found = [info for info in self.system.get_file_info(selector) if info.type == pyarrow.fs.FileType.File]
        below = len(self.path.rstrip("/")) + 1
        return [self.child(info.path[below:]) for info in sorted(found, key=lambda info: info.path)]

    def read(self) -> bytes:
        with self.system.open_input_stream(self.path) as stream:
            return stream.read()

    @contextlib.contextmanager
    def written(self) -> Generator[pa.NativeFile]:
        """A stream whose content becomes this file at the end of the block, whole; after an error there is none.

        What is on a disk of this machine is safe there before the name is.
        """
        if not self.is_local:
            # an object's name appears when its upload has ended
            stream = self.system.open_output_stream(self.path)
            try:
                yield stream
            except BaseException:
                if abort := getattr(stream, "abort", None):
                    abort()
                raise
            stream.close()
            return
        unfinished = self.beside(TEMPORARY)
        try:
            with self.system.open_output_stream(unfinished.path) as stream:
                yield stream
            unfinished.put_at(self)
        except BaseException:
            # most of all where the disk is full: what was written takes the room that is missing
            Path(unfinished.path).unlink(missing_ok=True)
            raise

    def put_at(self, place: Location) -> None:
        """Rename a local file or folder, also over another file, once it is on the disk."""
        if not Path(self.path).is_dir():
            with Path(self.path).open("rb") as file:
                os.fsync(file.fileno())
        Path(self.path).replace(place.path)
        folder = os.open(Path(place.path).parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def delete(self) -> None:
        """What is there, if anything is, with all that is in it."""
        kind = self.info.type
        if kind == pyarrow.fs.FileType.Directory:
            self.system.delete_dir(self.path)
        elif kind != pyarrow.fs.FileType.NotFound:
            self.system.delete_file(self.path)


def locate(given: str, setting: str) -> Location:
    """Raises InvalidSetting where nothing can be read or written there."""
    scheme, separator, _ = given.partition("://")
    try:
        given.encode()
    except UnicodeEncodeError as error:
        shown = given.encode(errors="backslashreplace").decode()
        raise InvalidSetting(setting=setting, problem=f"the name {shown} is no UTF-8: give it another one") from error
    if not separator:
        return Location(given, pyarrow.fs.LocalFileSystem(), str(Path(given).expanduser().absolute()))
    try:
        system, path = pyarrow.fs.FileSystem.from_uri(given)
    except (ValueError, OSError):
        import fsspec

        try:
            found, path = fsspec.core.url_to_fs(given)
        except (ValueError, ImportError) as error:
            raise InvalidSetting(setting=setting, problem=f"nothing here reads {scheme}:// ({error})") from error
        system = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(found))
    return Location(given, system, path.rstrip("/"))


@contextlib.contextmanager
def readable(location: Location) -> Generator[None]:
    """Turn what reading raises into InputUnreadable."""
    try:
        yield
    except (OSError, pa.ArrowException, UnicodeError) as error:
        raise InputUnreadable(name=location.given, problem=_problem(error)) from error


@contextlib.contextmanager
def writable(location: Location) -> Generator[None]:
    """Turn what writing raises into OutputUnwritable."""
    try:
        yield
    except (OSError, pa.ArrowException, UnicodeError) as error:
        raise OutputUnwritable(name=location.given, problem=_problem(error)) from error


def _problem(error: Exception) -> str:
    """In the system's words where it is the system's: Arrow's have them twice."""
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number else " ".join(str(error).split())
