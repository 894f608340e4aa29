"""Triton's kernels against their formulas in torch, in float32; only where there is a GPU to compile them for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn import functional

from embedway.models.fused_linear import Norm
from embedway.models.residual_norm import best_norm_of_sum, norm_of_sum

if TYPE_CHECKING:
    from types import ModuleType

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DTYPES = (torch.float16, torch.bfloat16)
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 2e-2}
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


@pytest.fixture
def kernels() -> ModuleType:
    return pytest.importorskip("embedway.models.triton_kernels")


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, device="cuda").to(dtype)


def norm(columns: int) -> Norm:
    return Norm(noise(columns), noise(columns), 1e-12)


@every_dtype
@pytest.mark.parametrize(("rows", "columns"), [(1, 32), (7, 384), (300, 768), (5, 1000), (3, 4096)])
def test_the_norm_of_a_sum(rows: int, columns: int, dtype: torch.dtype, kernels: ModuleType) -> None:
    hidden, added, layer = noise(rows, columns), noise(rows, columns, dtype=dtype), norm(columns)
    expected, _ = norm_of_sum(hidden, added, layer, dtype)
    got, narrow = kernels.norm_of_sum(hidden, added, layer, dtype)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(narrow, got.to(dtype))


@every_dtype
@pytest.mark.parametrize("shape", [(1, 1, 32), (1, 77, 128), (1, 9, 5, 128), (3, 1000), (2, 4096)])
def test_the_rms_norm(shape: tuple[int, ...], dtype: torch.dtype, kernels: ModuleType) -> None:
    x, weight = noise(*shape, dtype=dtype), noise(shape[-1], dtype=dtype)
    expected = functional.rms_norm(x.float(), (shape[-1],), weight.float(), 1e-6)
    got = kernels.rms_norm(x, weight, 1e-6)
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@every_dtype
@pytest.mark.parametrize(("heads", "total", "size"), [(1, 1, 8), (3, 50, 64), (16, 33, 128), (5, 7, 96)])
def test_rotary_positions(heads: int, total: int, size: int, dtype: torch.dtype, kernels: ModuleType) -> None:
    x = noise(1, total, heads + 2, size, dtype=dtype)[:, :, 1:-1].transpose(1, 2)  # as cut from a joined product
    cos, sin = (noise(1, total, size, dtype=dtype) for _ in range(2))
    a, b = x.float().chunk(2, dim=-1)
    expected = x.float() * cos.float() + torch.cat((-b, a), dim=-1) * sin.float()
    got = kernels.rotate(x, cos, sin)
    torch.testing.assert_close(got.float(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@every_dtype
@pytest.mark.parametrize("shape", [(1, 1), (1, 7, 3000), (4096,)])
def test_the_gate(shape: tuple[int, ...], dtype: torch.dtype, kernels: ModuleType) -> None:
    gate, up = noise(*shape, dtype=dtype), noise(*shape, dtype=dtype)
    expected = functional.silu(gate.float()) * up.float()
    got = kernels.silu_times(gate, up)
    torch.testing.assert_close(got.float(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@every_dtype
def test_where_triton_works_norms_are_one_launch(dtype: torch.dtype, kernels: ModuleType) -> None:
    assert best_norm_of_sum(norm(384), dtype) is kernels.norm_of_sum
    assert best_norm_of_sum(norm(384), torch.float32) is norm_of_sum


def test_where_triton_does_not_work_torch_does(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(kernels, "norm_of_sum", fail)
    assert best_norm_of_sum(norm(384), torch.bfloat16) is norm_of_sum
    assert "C compiler" in caplog.text
