"""The weights of a folder through numpy: `model.safetensors`, or the shards that its index lists. No torch.

Files are mapped, not read: a float32 matrix is a view of the file's pages and takes memory only where it is touched.
safetensors' own numpy reader copies every tensor, and has no bfloat16.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embedway.errors import UnsupportedCheckpoint
from embedway.models.checkpoint_files import INDEX
from embedway.models.json_files import read_object

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from embedway.kernels.native import Floats

FILE = "model.safetensors"
STORED_AS: dict[str, type[np.generic]] = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
"""How numpy sees the bytes of each type that is read; bfloat16 as its bits."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor, where it lies."""

    path: Path
    bytes: npt.NDArray[np.uint8]
    """Its part of the file's"""
    offset: int
    """From the file's start, in bytes"""
    dtype: str
    """safetensors' name, e.g. `BF16`"""
    shape: tuple[int, ...]


class WeightFiles:
    """The tensors of a folder by name. Dropping it and what `matrix` gave unmaps the files."""

    def __init__(self, folder: Path) -> None:
        """Raise UnsupportedCheckpoint where there is no safetensors file, or one that cannot be read."""
        self.folder = folder
        self._tensors: dict[str, Tensor] = {}
        for path in weight_paths(folder):
            self._tensors |= read_header(folder, path)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in self._tensors.items()}

    def matrix(self, name: str) -> Floats:
        """float32, contiguous: a view of the file where it holds float32, else a copy."""
        return self._float32(self._tensors[name])

    def vector(self, name: str) -> Floats:
        """The same, always a copy: a few kilobytes that are kept must not keep a whole file mapped."""
        return np.array(self.matrix(name))

    def table(self, name: str) -> Floats:
        """The same in a mapping of its own, which outlives this object's: for what is looked up row by row."""
        tensor = self._tensors[name]
        own = np.memmap(tensor.path, np.uint8, mode="c", offset=tensor.offset, shape=(tensor.bytes.size,))
        return self._float32(replace(tensor, bytes=np.asarray(own)))

    def _float32(self, tensor: Tensor) -> Floats:
        try:
            return float32_values(tensor)
        except ValueError as error:
            raise UnsupportedCheckpoint(folder=self.folder, problem=str(error)) from error


def float32_values(tensor: Tensor) -> Floats:
    """float32, contiguous: a view of the tensor's bytes where they are that, else a copy. Raises ValueError."""
    if tensor.dtype not in STORED_AS:
        raise ValueError(
            f"{tensor.path.name} has weights of the type {tensor.dtype}, which is none of {', '.join(STORED_AS)}"
        )
    stored, data = STORED_AS[tensor.dtype], tensor.bytes
    if tensor.offset % np.dtype(stored).itemsize:
        data = data.copy()  # numpy reads misaligned floats, but a kernel might not
    values = data.view(stored).reshape(tensor.shape)
    if tensor.dtype == "BF16":  # a float32 without its lower half
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


def weight_paths(folder: Path) -> list[Path]:
    """The files, chosen as transformers chooses. Raises UnsupportedCheckpoint where there are none."""
    if (folder / FILE).is_file():
        return [folder / FILE]
    index = read_object(folder, INDEX)
    if index is None:
        problem = f"it has no {FILE} (pickled weights such as pytorch_model.bin are not loaded)"
        raise UnsupportedCheckpoint(folder=folder, problem=problem)
    return [folder / name for name in sorted(set(index.texts("weight_map").values()))]


def read_header(folder: Path, path: Path) -> dict[str, Tensor]:
    """Map a file and find its tensors."""
    try:
        # copy-on-write: torch takes writable memory only
        data = np.asarray(np.memmap(path, np.uint8, mode="c"))
    except (OSError, ValueError) as error:  # numpy maps no empty file
        raise UnsupportedCheckpoint(folder=folder, problem=f"{path.name} cannot be read: {error}") from error
    try:
        return parse_tensors(path, data)
    except ValueError as error:
        raise UnsupportedCheckpoint(folder=folder, problem=str(error)) from error


def parse_tensors(path: Path, data: npt.NDArray[np.uint8]) -> dict[str, Tensor]:
    """Find a file's tensors in its bytes: 8 that count the header's, the header in JSON, then the data.

    Raises ValueError, which names the file without its folder.
    """
    try:
        start = 8 + int.from_bytes(data[:8].tobytes(), "little")
        entries = json.loads(data[8:start].tobytes())
        entries.pop("__metadata__", None)
        return {name: _tensor(path, data, start, **entry) for name, entry in entries.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from error


def _tensor(
    path: Path, data: npt.NDArray[np.uint8], start: int, *, dtype: str, shape: list[int], data_offsets: list[int]
) -> Tensor:
    begin, end = data_offsets
    if not 0 <= begin <= end <= len(data) - start:
        raise ValueError("it is shorter than its header says")
    if dtype in STORED_AS and end - begin != np.dtype(STORED_AS[dtype]).itemsize * int(np.prod(shape)):
        raise ValueError("a tensor's size is not what its shape says")
    return Tensor(path, data[start + begin : start + end], start + begin, dtype, tuple(shape))


def require_weights(folder: Path | str, *, missing: Iterable[str], misshapen: Iterable[str]) -> None:
    """Refuse a checkpoint with weights that are not there, or not of the declared shape, by name."""
    for names, word in ((sorted(missing), "lacks"), (sorted(misshapen), "has a wrong shape for")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UnsupportedCheckpoint(folder=folder, problem=f"it {word} the weight {names[0]}{more}")
