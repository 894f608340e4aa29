"""How fast this machine multiplies matrices: what an encoder of the same machine can be measured against.

Each library is timed at the shapes of the model's own layers and on large squares, for each type; the best of all is
the roofline of that type.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import torch
from torch.nn.functional import linear

from benchmarks.checkpoints import SHAPES
from benchmarks.results import Gemm

# ruff: noqa: SLF001 - torch gives these operators, which its own compiler calls, no public name
ONEDNN = torch.ops.mkldnn

Product: TypeAlias = Callable[[], object]
MakeProduct: TypeAlias = Callable[[int, int, int], Product]
"""rows, in, out → a call that multiplies [rows, in] by [out, in] transposed, its weight laid out beforehand. Raises
RuntimeError where this machine cannot."""

ROWS = 1024
"""A batch of tokens"""
SQUARE = 2048
SECONDS = 0.1
"""Of one timing"""


def torch_product(dtype: torch.dtype) -> MakeProduct:
    """What `nn.Linear` runs: MKL or oneDNN, as torch chooses."""

    def make(rows: int, inner: int, out: int) -> Product:
        x, weight = torch.randn(rows, inner).to(dtype), torch.randn(out, inner).to(dtype)
        return lambda: linear(x, weight)

    return make


def onednn_product(dtype: torch.dtype) -> MakeProduct:
    """oneDNN with the weight in its own layout."""

    def make(rows: int, inner: int, out: int) -> Product:
        x = torch.randn(rows, inner).to(dtype)
        weight = ONEDNN._reorder_linear_weight(torch.randn(out, inner).to(dtype), rows)
        return lambda: ONEDNN._linear_pointwise(x, weight, None, "none", [], "")

    return make


NATIVE: dict[str, MakeProduct] = {}
"""By dtype: the native library's own product goes here."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def products(dtype: str) -> Mapping[str, MakeProduct]:
    """By library."""
    made = {"torch": torch_product(DTYPES[dtype]), "oneDNN prepacked": onednn_product(DTYPES[dtype])}
    return made | ({"native": NATIVE[dtype]} if dtype in NATIVE else {})


def measure_gemms(model: str, dtype: str) -> Iterator[Gemm]:
    """Every library at the model's shapes, each layer's products together, and on squares."""
    for source, make in products(dtype).items():
        for name, shapes in (("layers", SHAPES[model].gemms), ("squares", ((SQUARE, SQUARE),))):
            rows = SQUARE if name == "squares" else ROWS
            try:
                with torch.inference_mode():
                    seconds = sum(best_seconds(make(rows, *shape)) for shape in shapes)
            except RuntimeError:  # a type that this machine's library does not compute
                continue
            flops = sum(2 * rows * inner * out for inner, out in shapes)
            yield Gemm(model=model, dtype=dtype, source=source, shapes=name, tflops=flops / seconds / 1e12)


def best_seconds(product: Product) -> float:
    """The shortest time of one call: a roofline is what the machine can do undisturbed."""
    product()
    end = time.perf_counter() + SECONDS
    best = float("inf")
    while time.perf_counter() < end:
        began = time.perf_counter()
        product()
        best = min(best, time.perf_counter() - began)
    return best


def roofline_tflops(gemms: list[Gemm], model: str, dtype: str) -> float:
    """The best of a type, for a model."""
    return max(gemm.tflops for gemm in gemms if (gemm.model, gemm.dtype) == (model, dtype))
