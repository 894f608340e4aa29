from __future__ import annotations

import pytest
import torch
from torch import nn

from embedway.models import cpu_linear
from embedway.models.cpu_linear import PackedLinear, can_pack, pack_linears

needs_onednn = pytest.mark.skipif(not can_pack(torch.float32), reason="this torch has no oneDNN")


@pytest.fixture
def packing_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The measurement is of this machine; the tests below are of what follows from it."""
    monkeypatch.setattr(cpu_linear, "packing_gain", lambda weight, bias: 2.0)


@needs_onednn
@pytest.mark.parametrize("rows", [1, 12, 300])
@pytest.mark.parametrize("bias", [True, False])
def test_the_packed_layer_equals_the_plain_one(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(96, 160, bias=bias)
    x = torch.randn(1, rows, 96)
    with torch.inference_mode():
        expected = plain(x)
        got = PackedLinear(plain)(x)
    assert (got - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.skipif(not can_pack(torch.bfloat16), reason="this CPU's oneDNN has no bfloat16")
def test_the_packed_layer_equals_the_plain_one_in_bfloat16() -> None:
    torch.manual_seed(0)
    plain = nn.Linear(96, 160).bfloat16()
    x = torch.randn(1, 33, 96).bfloat16()
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(plain)(x), plain(x))


@needs_onednn
@pytest.mark.usefixtures("packing_pays")
def test_plain_layers_are_replaced_and_their_weights_freed() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Sequential(nn.Linear(16, 4)))
    assert pack_linears(model) == 2
    assert isinstance(model[0], PackedLinear)
    assert not list(model.parameters())


@needs_onednn
@pytest.mark.usefixtures("packing_pays")
def test_shared_and_special_layers_are_left_alone() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - nn.Linear's own name
            return 2 * super().forward(input)

    model = nn.ModuleDict({"embed": nn.Embedding(16, 8), "head": nn.Linear(8, 16), "doubled": Doubled(8, 8)})
    model["head"].weight = model["embed"].weight
    assert pack_linears(model) == 0


def test_plain_layers_stay_where_packing_does_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_linear, "packing_gain", lambda weight, bias: 1.0)
    model = nn.Sequential(nn.Linear(8, 16))
    assert pack_linears(model) == 0
    assert type(model[0]) is nn.Linear


@needs_onednn
def test_the_gain_is_measured_on_the_layer_itself() -> None:
    assert 0 < cpu_linear.packing_gain(torch.randn(64, 64), torch.randn(64)) < 1000


def test_types_that_onednn_lacks_here_are_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_linear, "packing_gain", lambda *_: pytest.fail("measured a type that cannot be packed"))
    assert not can_pack(torch.float64)
    assert pack_linears(nn.Sequential(nn.Linear(8, 8).double())) == 0
