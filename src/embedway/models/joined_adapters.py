"""Many LoRA adapters of a batch in few products, for a GPU: one launch for all costs less than one for each.

Neighbouring adapters' low-rank factors lie side by side. Each row is multiplied by all of them, and what is not its own
is set to zero, which adds nothing: more arithmetic, in a width at which a GPU has it for nothing.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.nn.functional import linear

from embedway.models.device_copies import to_device
from embedway.models.torch_adapter import AdaptedRows, Change, TorchAdapter, Up

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MAX_RANKS = 1024
"""Of a layer's adapters that are joined. Beyond it the products themselves would take time."""


@dataclass(frozen=True, slots=True, eq=False)
class JoinedChange(Change):
    """What several adapters add to one linear layer, each to its own rows."""

    others: torch.Tensor
    """bool [rows, ranks]: where a row's low-rank value is of an adapter that is not its own"""

    def add(self, x: torch.Tensor, out: torch.Tensor, rows: slice) -> None:
        """As `Change.add`, of exactly the rows that were joined."""
        low = linear(x[rows], self.down).masked_fill_(self.others, 0)  # not times 0: of infinity that would be NaN
        for columns, ranks, weight in self.ups:
            out[rows, columns].addmm_(low[:, ranks], weight)


class Part(NamedTuple):
    """What one adapter adds to some columns of a layer."""

    owner: int
    down: torch.Tensor
    """[rank, in]"""
    up: torch.Tensor
    """[rank, out]"""


def joined(adapted: Sequence[AdaptedRows]) -> tuple[AdaptedRows, ...]:
    """The same changes in fewer pieces. The adapters' rows are neighbours, in order."""
    return tuple(group[0] if len(group) == 1 else _join(group) for group in _groups(adapted))


def _groups(adapted: Sequence[AdaptedRows]) -> Iterator[list[AdaptedRows]]:
    group: list[AdaptedRows] = []
    room = 0
    for rows in adapted:
        ranks = max((len(change.down) for change in rows.adapter.changes.values()), default=0)
        if group and ranks > room:
            yield group
            group = []
        room = (room if group else MAX_RANKS) - ranks
        group.append(rows)
    if group:
        yield group


def _join(group: Sequence[AdaptedRows]) -> AdaptedRows:
    lengths = [rows.stop - rows.start for rows in group]
    device = next(iter(group[0].adapter.changes.values())).down.device
    row_owners = to_device(np.repeat(np.arange(len(group)), lengths), device)
    masks: dict[tuple[int, ...], torch.Tensor] = {}
    """By the owner of each rank: most layers have them alike"""

    def others(owners: tuple[int, ...]) -> torch.Tensor:
        if owners not in masks:
            masks[owners] = row_owners[:, None] != to_device(np.array(owners), device)
        return masks[owners]

    changes = {}
    for name in dict.fromkeys(name for rows in group for name in rows.adapter.changes):
        # by the columns that they change, so that those of one place are one product
        places: defaultdict[tuple[int, int], list[Part]] = defaultdict(list)
        for owner, rows in enumerate(group):
            if (change := rows.adapter.changes.get(name)) is not None:
                for up in change.ups:
                    places[up.columns.start, up.columns.stop].append(Part(owner, change.down[up.ranks], up.weight))
        parts = [part for place in places.values() for part in place]
        owners = tuple(part.owner for part in parts for _ in range(len(part.down)))
        down = torch.cat([part.down for part in parts])
        changes[name] = JoinedChange(down, tuple(_ups(places)), others(owners))
    return AdaptedRows(group[0].start, group[-1].stop, TorchAdapter(changes))


def _ups(places: Mapping[tuple[int, int], Sequence[Part]]) -> Iterator[Up]:
    """One for each place, whose ranks lie side by side"""
    first = 0
    for columns, parts in places.items():
        weight = torch.cat([part.up for part in parts])
        yield Up(slice(*columns), slice(first, first + len(weight)), weight)
        first += len(weight)
