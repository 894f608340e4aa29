"""Activations in numpy, elementwise in float32."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from embedway.kernels.native import Floats

_erf = np.vectorize(math.erf, otypes=[np.float32])  # numpy has no erf; the C library's takes 0.1 µs a value


def identity(x: Floats) -> Floats:
    return x


def tanh(x: Floats) -> Floats:
    return np.tanh(x)


def relu(x: Floats) -> Floats:
    return np.maximum(x, 0)


def gelu(x: Floats) -> Floats:
    """The exact one, by the normal distribution."""
    return x * (0.5 + 0.5 * _erf(x * np.float32(math.sqrt(0.5))))


def gelu_tanh(x: Floats) -> Floats:
    return 0.5 * x * (1 + np.tanh(np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)))


def sigmoid(x: Floats) -> Floats:
    return 0.5 + 0.5 * np.tanh(0.5 * x)  # no exponential that overflows


def silu(x: Floats) -> Floats:
    return x * sigmoid(x)
