"""Many LoRA adapters of a batch in few products, for a GPU: one launch for all costs less than one for each.

Neighbouring adapters' low-rank factors lie side by side. Each row is multiplied by all of them, and what is not its own
is set to zero, which adds nothing: more arithmetic, in a width at which a GPU has it for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import linear

from embedway.models.torch_adapter import AdaptedRows, Change, TorchAdapter, Up

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_RANKS = 512
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
    start, stop = group[0].start, group[-1].stop
    device = next(iter(group[0].adapter.changes.values())).down.device
    lengths = torch.tensor([rows.stop - rows.start for rows in group])
    row_owners = torch.repeat_interleave(torch.arange(len(group)), lengths).to(device)
    masks: dict[tuple[int, ...], torch.Tensor] = {}
    """By the owner of each rank: most layers have them alike"""

    def others(owners: tuple[int, ...]) -> torch.Tensor:
        if owners not in masks:
            masks[owners] = row_owners[:, None] != torch.tensor(owners).to(device)
        return masks[owners]

    changes = {}
    for name in dict.fromkeys(name for rows in group for name in rows.adapter.changes):
        parts = [(i, rows.adapter.changes[name]) for i, rows in enumerate(group) if name in rows.adapter.changes]
        # by the columns that they change, so that those of one place are one product
        sides = sorted(((up.columns.start, i, change, up) for i, change in parts for up in change.ups), key=_place)
        owners = tuple(i for _, i, _, up in sides for _ in range(up.ranks.stop - up.ranks.start))
        down = torch.cat([change.down[up.ranks] for _, _, change, up in sides])
        changes[name] = JoinedChange(down, tuple(_ups([up for *_, up in sides])), others(owners))
    return AdaptedRows(start, stop, TorchAdapter(changes))


def _place(side: tuple[int, int, Change, Up]) -> tuple[int, int]:
    return side[:2]


def _ups(ups: Sequence[Up]) -> Iterator[Up]:
    """One for each place, of those that lie side by side"""
    first, rank = 0, 0
    for i, up in enumerate(ups):
        rank += up.ranks.stop - up.ranks.start
        if i + 1 == len(ups) or ups[i + 1].columns != up.columns:
            same = [other.weight for other in ups if other.columns == up.columns]
            yield Up(up.columns, slice(first, rank), torch.cat(same))
            first = rank
