"""How far vectors are from the reference's, and how far they may be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedway.models.weight_dtype import BROKEN_COSINE

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Deviation:
    """Of vectors made unit length."""

    worst_cosine: float
    mean_cosine: float
    max_difference: float
    """Largest of any component"""
    worst: int
    """Which vector has the worst cosine"""

    def is_explained(self, dtype: str) -> bool:
        """By rounding: float32 has hardly any, so that its vectors show what is computed wrongly."""
        return self.worst_cosine >= BROKEN_COSINE[dtype]


def deviation(vectors: Vectors, reference: Vectors) -> Deviation:
    """Both [n, dimension], in the same order. Raises ValueError where their shapes differ."""
    if vectors.shape != reference.shape:
        raise ValueError(f"vectors of the shape {vectors.shape}, but the reference's have {reference.shape}")
    a, b = unit(vectors), unit(reference)
    cosines = np.nan_to_num((a * b).sum(axis=1), nan=-1.0)
    return Deviation(
        worst_cosine=float(cosines.min()),
        mean_cosine=float(cosines.mean()),
        max_difference=float(np.abs(a - b).max()),
        worst=int(cosines.argmin()),
    )


def unit(vectors: Vectors) -> npt.NDArray[np.float64]:
    exact = vectors.astype(np.float64)
    return exact / np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), np.finfo(np.float64).tiny)
