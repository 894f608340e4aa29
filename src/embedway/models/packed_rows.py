"""The rows of a packed batch as torch's modules take them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROW_MULTIPLE = 16
"""oneDNN compiles a kernel for each number of rows that it meets and keeps a thousand, of 0.4 MB each: mixed traffic
cost 700 MB, measured. So a whole batch (not a sequence) gets up to 15 spare rows on a CPU, which no sequence sees."""

CHUNK_ROWS = 1024
"""Of a tower that run together, but at least one sequence: more take more memory (a hundred frames of ViT-L are 26 000
rows) and are no faster."""


def row_chunks(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Sequences of these lengths, in order, as chunks of at most CHUNK_ROWS: the first, and the one after the last."""
    start, rows = 0, 0
    for i, length in enumerate(lengths):
        if rows and rows + length > CHUNK_ROWS:
            yield start, i
            start, rows = i, 0
        rows += length
    yield start, len(lengths)


def num_spare_rows(num_rows: int, device: torch.device, *, multiple: int = ROW_MULTIPLE) -> int:
    """How many rows are missing on a CPU to the next multiple; none on other devices"""
    return -num_rows % multiple if device.type == "cpu" else 0


def with_spare_rows(rows: torch.Tensor) -> torch.Tensor:
    """[total, …] to [total + spare, …]: on a CPU the last row is repeated up to the next multiple of ROW_MULTIPLE."""
    spare = num_spare_rows(len(rows), rows.device)
    return torch.cat([rows, rows[-1:].expand(spare, *rows.shape[1:])]) if spare else rows


def whole_multiples(start: int, stop: int, rows: torch.Tensor) -> slice:
    """The slice from start to stop, on a CPU widened to multiples of ROW_MULTIPLE as far as there are rows."""
    if rows.device.type != "cpu":
        return slice(start, stop)
    return slice(start - start % ROW_MULTIPLE, min(stop + -stop % ROW_MULTIPLE, len(rows)))
