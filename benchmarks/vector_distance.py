"""How far a contestant's vectors are from the reference."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def worst_cosine(vectors: npt.NDArray[np.float32], reference: npt.NDArray[np.float32]) -> float:
    """The smallest cosine of two vectors with the same place, both [n, dimension]."""
    vectors = vectors.astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(reference.astype(np.float64), axis=1)
    return float(((vectors * reference).sum(axis=1) / lengths).min())
