from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embedway.kernels.native_adapter import LowRank
from embedway.models import joined_adapters
from embedway.models.joined_adapters import joined
from embedway.models.torch_adapter import AdaptedRows, TorchAdapter, changes_of

SIZE = 6
LAYERS = {"qkv": 3, "up": 1}
"""Parts of SIZE columns each, which an adapter may change one by one"""


def adapter(seed: int) -> TorchAdapter:
    """Of random rank, with random parts of the layers, at least one."""
    rng = np.random.default_rng(seed)
    rank = int(rng.integers(1, 5))
    layers = {}
    for name, count in LAYERS.items():
        parts = [
            (i * SIZE, LowRank(*(rng.normal(size=s).astype(np.float32) for s in ((rank, SIZE), (SIZE, rank)))))
            for i in range(count)
            if rng.random() < 0.6
        ]
        if parts:
            layers[name] = parts
    layers = layers or {"up": [(0, LowRank(np.ones((1, SIZE), np.float32), np.ones((SIZE, 1), np.float32)))]}
    return TorchAdapter.of("mine", layers, dtype=torch.float32, device=torch.device("cpu"))


def changed(adapted: tuple[AdaptedRows, ...], name: str, x: torch.Tensor) -> torch.Tensor:
    out = torch.zeros(len(x), SIZE * LAYERS[name])
    for rows, change in changes_of(adapted, name):
        change.add(x, out, rows)
    return out


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    before=st.integers(0, 5),
    most=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_joined_adapters_add_what_each_adds_alone(lengths: list[int], before: int, most: int, seed: int) -> None:
    ends = np.cumsum([before, *lengths]).tolist()
    adapted = tuple(
        AdaptedRows(start, stop, adapter(seed + i)) for i, (start, stop) in enumerate(itertools.pairwise(ends))
    )
    x = torch.tensor(np.random.default_rng(seed).normal(size=(ends[-1] + 3, SIZE)).astype(np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joined_adapters, "MAX_RANKS", most)
        pieces = joined(adapted)
    for name in LAYERS:
        expected, got = changed(adapted, name, x), changed(pieces, name, x)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        assert not got[:before].any()
        assert not got[ends[-1] :].any()


def test_adapters_are_joined_as_far_as_their_ranks_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    one = AdaptedRows(0, 2, adapter(0))
    ranks = max(len(change.down) for change in one.adapter.changes.values())
    monkeypatch.setattr(joined_adapters, "MAX_RANKS", 2 * ranks)
    three = (one, one._replace(start=2, stop=5), one._replace(start=5, stop=6))
    assert [(piece.start, piece.stop) for piece in joined(three)] == [(0, 5), (5, 6)]
    assert joined(three)[1].adapter is one.adapter  # alone, it is left as it is
    assert joined(()) == ()


def test_another_adapter_s_overflow_reaches_nobody_else() -> None:
    layers = [
        {"up": [(0, LowRank(np.full((1, SIZE), size, np.float32), np.ones((SIZE, 1), np.float32)))]}
        for size in (1.0, 3e38)
    ]
    adapters = [TorchAdapter.of("a", each, dtype=torch.float32, device=torch.device("cpu")) for each in layers]
    pieces = joined((AdaptedRows(0, 1, adapters[0]), AdaptedRows(1, 2, adapters[1])))
    out = changed(pieces, "up", torch.full((2, SIZE), 10.0))
    assert out[0].tolist() == [60.0] * SIZE
    assert out[1].isinf().all()
