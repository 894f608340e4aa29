"""LoRA adapters in torch: in each linear layer, each adapter of a batch changes one slice of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch
from torch.nn.functional import linear

from embedway.errors import AdapterRefused
from embedway.models.packed_rows import whole_multiples

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from embedway.kernels.native_adapter import LowRank


class Up(NamedTuple):
    """Which of a layer's outputs change, by which of the low-rank values."""

    columns: slice
    ranks: slice
    weight: torch.Tensor
    """[rank, out]"""


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What an adapter adds to one linear layer. A layer that computes several of a model's has an `Up` for each."""

    down: torch.Tensor
    """[ranks, in]"""
    ups: tuple[Up, ...]

    @classmethod
    def of(cls, parts: Iterable[tuple[int, LowRank]], *, dtype: torch.dtype, device: torch.device) -> Change:
        """Of each part's first column and low-rank factors: one part or more"""
        downs, ups, ranks = [], [], 0
        for column, part in parts:
            out, rank = part.up.shape
            weight = torch.from_numpy(part.up.T).to(device, dtype).contiguous()
            ups.append(Up(slice(column, column + out), slice(ranks, ranks + rank), weight))
            downs.append(torch.from_numpy(part.down))
            ranks += rank
        return cls(torch.cat(downs).to(device, dtype), tuple(ups))

    def add(self, x: torch.Tensor, out: torch.Tensor, rows: slice) -> None:
        """Change some rows of `out` [total, out] in place by the same of `x` [total, in], in their dtype.

        On a CPU neighbouring rows are computed too, and get zero added: see ROW_MULTIPLE.
        """
        start, stop, _ = rows.indices(len(x))
        window = whole_multiples(start, stop, x)
        low = linear(x[window], self.down)
        low[: start - window.start] = 0
        low[stop - window.start :] = 0
        for columns, ranks, weight in self.ups:
            out[window, columns].addmm_(low[:, ranks], weight)

    def is_finite(self) -> bool:
        return all(bool(factor.isfinite().all()) for factor in (self.down, *(up.weight for up in self.ups)))


@dataclass(frozen=True, slots=True, eq=False)
class TorchAdapter:
    """An adapter as the encoders in torch compute with it."""

    changes: Mapping[str, Change]
    """By the linear layer's name in the encoder"""

    @classmethod
    def of(
        cls,
        name: str,
        layers: Mapping[str, Sequence[tuple[int, LowRank]]],
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> TorchAdapter:
        """From each changed layer's parts: first columns and low-rank factors. `name` is the adapter's.

        Raises AdapterRefused where a weight is infinite in this type: zero times that would reach other sequences.
        """
        changes = {layer: Change.of(parts, dtype=dtype, device=device) for layer, parts in layers.items()}
        large = next((layer for layer, change in changes.items() if not change.is_finite()), None)
        if large is not None:
            kind = str(dtype).removeprefix("torch.")
            raise AdapterRefused(adapter=name, problem=f"its weights of {large} are too large for {kind}")
        return cls(changes)


class AdaptedRows(NamedTuple):
    """Neighbouring rows of a packed batch, all of one adapter's sequences."""

    start: int
    stop: int
    adapter: TorchAdapter


ChangedRows: TypeAlias = "Sequence[tuple[slice, Change]]"
"""Which rows of one linear layer change, and how"""


def changes_of(adapted: Sequence[AdaptedRows], name: str) -> ChangedRows:
    """Of the linear layer of that name"""
    return [(slice(a.start, a.stop), a.adapter.changes[name]) for a in adapted if name in a.adapter.changes]
