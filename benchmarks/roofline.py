"""How fast this machine multiplies matrices: what an encoder of the same machine can be measured against.

Each library is timed at the shapes of the model's own layers and on large squares, for each type, on all cores; the
best of all is the roofline of that type. Times are means over a stretch of work, as the encoder's own are: on a shared
machine the best single call is one that nobody disturbed, which no longer piece of work can be.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
import torch
from torch.nn.functional import linear

from benchmarks.checkpoints import SHAPES
from benchmarks.results import Gemm
from embedway.kernels.library import ErrorText, load_library
from embedway.kernels.native import GEMM_TYPES, gemm_types
from embedway.models.cpu_threads import available_cores

# ruff: noqa: SLF001 - torch gives these operators, which its own compiler calls, no public name
ONEDNN = torch.ops.mkldnn

TimeProduct: TypeAlias = Callable[[int, int, int], float]
"""rows, in, out → seconds to multiply [rows, in] by [out, in] transposed, its weight laid out beforehand. Raises
RuntimeError where this machine cannot."""

ROWS = 1024
"""A batch of tokens"""
SQUARE = 2048
SECONDS = 0.15
"""Of one timing"""


def torch_seconds(dtype: torch.dtype) -> TimeProduct:
    """What `nn.Linear` runs: MKL or oneDNN, as torch chooses."""

    def measure(rows: int, inner: int, out: int) -> float:
        x, weight = torch.randn(rows, inner).to(dtype), torch.randn(out, inner).to(dtype)
        return mean_seconds(lambda: linear(x, weight))

    return measure


def onednn_seconds(dtype: torch.dtype) -> TimeProduct:
    """oneDNN with the weight in its own layout."""

    def measure(rows: int, inner: int, out: int) -> float:
        x = torch.randn(rows, inner).to(dtype)
        weight = ONEDNN._reorder_linear_weight(torch.randn(out, inner).to(dtype), rows)
        return mean_seconds(lambda: ONEDNN._linear_pointwise(x, weight, None, "none", [], ""))

    return measure


def native_seconds(dtype: str) -> TimeProduct:
    """The native library's own blocks, each core with its part of the rows."""

    def measure(rows: int, inner: int, out: int) -> float:
        cores = available_cores()
        part = -(-rows // cores)
        x, weight, bias = (
            np.zeros((part, inner), np.float32),
            np.zeros((out, inner), np.float32),
            np.zeros(out, np.float32),
        )

        def run(repeats: int) -> float:
            result, error = np.empty((part, out), np.float32), ErrorText()
            library = load_library()
            assert library is not None
            seconds: float = library.embedway_linear(
                *(array.ctypes.data for array in (x, weight, bias)),
                *(part, out, inner, 0),
                *(None, GEMM_TYPES.index(dtype), repeats, result.ctypes.data, error),
            )
            if seconds < 0:
                raise RuntimeError(error.value.decode())
            return seconds

        repeats = max(1, int(SECONDS / run(1)))
        with ThreadPoolExecutor(cores) as pool:
            return statistics.mean(pool.map(run, [repeats] * cores))

    return measure


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def products(dtype: str) -> Mapping[str, TimeProduct]:
    """By library."""
    made = {"torch": torch_seconds(DTYPES[dtype]), "oneDNN prepacked": onednn_seconds(DTYPES[dtype])}
    return made | ({"native": native_seconds(dtype)} if dtype in gemm_types() else {})


def measure_gemms(model: str, dtype: str) -> Iterator[Gemm]:
    """Every library at the model's shapes, each layer's products together, and on squares."""
    for source, seconds_of in products(dtype).items():
        for name, shapes in (("layers", SHAPES[model].gemms), ("squares", ((SQUARE, SQUARE),))):
            rows = SQUARE if name == "squares" else ROWS
            try:
                with torch.inference_mode():
                    seconds = sum(seconds_of(rows, *shape) for shape in shapes)
            except RuntimeError:  # a type that this machine's library does not compute
                continue
            flops = sum(2 * rows * inner * out for inner, out in shapes)
            yield Gemm(model=model, dtype=dtype, source=source, shapes=name, tflops=flops / seconds / 1e12)


def mean_seconds(product: Callable[[], object]) -> float:
    """Of one call, over SECONDS of them."""
    product()
    calls, began = 0, time.perf_counter()
    while time.perf_counter() < began + SECONDS:
        product()
        calls += 1
    return (time.perf_counter() - began) / calls


def roofline_tflops(gemms: list[Gemm], model: str, dtype: str) -> float:
    """The best library and shape of a type, for a model: each by its median over the rounds."""
    figures: dict[tuple[str, str], list[float]] = {}
    for gemm in gemms:
        if (gemm.model, gemm.dtype) == (model, dtype):
            figures.setdefault((gemm.source, gemm.shapes), []).append(gemm.tflops)
    return max(map(statistics.median, figures.values()))
