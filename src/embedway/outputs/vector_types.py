"""The engine's vectors → the vectors a request asked for: cut, normalised, quantised.

Quantised types have Voyage AI's names and packing, which are those of sentence-transformers' `quantize_embeddings`:

- `ubinary`: one bit a dimension, 1 where it is above zero, eight a byte with the first dimension in the highest bit;
  `binary`: the same bytes minus 128 as int8 (offset binary).
- `int8`: a fixed range of ±r with r = min(1, 8 / √dimension), to integers from -127 to 127, so that
  vector ≈ int8 · r / 127; `uint8`: the same plus 128.

Why that range: it depends on nothing but the dimension, so vectors of different requests compare by dot product as well
as by cosine; a range of each vector's own would not, and sentence-transformers' needs a calibration set. A component of
a unit vector is about 1/√dimension. Measured on 2 275 English sentences with all-MiniLM-L6-v2 (384 dimensions, largest
component 5.0/√384), as cosine to float32 and as share of the ten nearest by dot product that stay among the ten:
±8/√384 0.99984 and 98.9%; ±1 0.99902 and 97.7% (0.9896 at 4096 dimensions, where ±8/√4096 keeps 0.9998); the vector's
own maximum 0.99997 and 73.5%. Narrower ranges gain half a percent here, but would clip models with outlier dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from embedway.errors import DimensionsNotSupported, InvalidValue
from embedway.model_spec import ModelSpec
from embedway.outputs.output_dtype import OutputDtype

Vectors = npt.NDArray[np.float32] | npt.NDArray[np.int8] | npt.NDArray[np.uint8]

SMALLEST_NORM = 1e-12
"""As torch's `F.normalize`: a shorter vector is divided by this, so a zero vector stays zero."""
RANGE_IN_DEVIATIONS = 8.0


def check_dimensions(spec: ModelSpec, dimensions: int | None, *, allow_any: bool) -> int | None:
    """The length to cut vectors to, or None for the full one; `allow_any` is the operator's --matryoshka.

    Raises DimensionsNotSupported.
    """
    if dimensions is None:
        return spec.truncate_dim
    if not 1 <= dimensions <= spec.dimension:
        raise DimensionsNotSupported(
            param="dimensions", dimensions=dimensions, problem=f"it must be from 1 to {spec.dimension}"
        )
    lengths = sorted({*spec.matryoshka_dimensions, spec.truncate_dim or spec.dimension, spec.dimension})
    if dimensions in lengths:
        return dimensions
    shown = ", ".join(map(str, lengths))
    if spec.matryoshka_dimensions:
        raise DimensionsNotSupported(
            param="dimensions", dimensions=dimensions, problem=f"this model declares these lengths: {shown}"
        )
    if not allow_any:
        problem = f"this model declares no Matryoshka lengths: only {shown} is served (to cut it anyway: --matryoshka)"
        raise DimensionsNotSupported(param="dimensions", dimensions=dimensions, problem=problem)
    return dimensions


def check_output_dtype(output_dtype: OutputDtype, *, dimension: int, normalize: bool) -> None:
    """Can vectors of this length become this type? `dimension` is the length after the cut. Raises InvalidValue."""
    if output_dtype in ("binary", "ubinary") and dimension % 8:
        problem = f'is "{output_dtype}", which packs 8 dimensions a byte, but {dimension} is no multiple of 8'
        raise InvalidValue(param="output_dtype", problem=f"{problem}: choose other 'dimensions'")
    if output_dtype in ("int8", "uint8") and not normalize:
        problem = f"is \"{output_dtype}\", which has a range for unit vectors only: leave out 'normalize'"
        raise InvalidValue(param="output_dtype", problem=problem)


def finish(
    vectors: npt.NDArray[np.float32], *, dimensions: int | None, normalize: bool, output_dtype: OutputDtype
) -> Vectors:
    """Cut, then normalise, then quantise.

    `vectors` are float32 [n, dim], not normalised, and stay as they are. Returns [n, dimensions or dim] of the type,
    or [n, dimensions / 8] for `binary` and `ubinary`; the result may share memory with `vectors`.
    Raises InvalidValue as `check_output_dtype` does.
    """
    cut = vectors[:, :dimensions]
    check_output_dtype(output_dtype, dimension=cut.shape[1], normalize=normalize)
    if normalize:
        cut = normalized(cut)
    return _QUANTIZERS[output_dtype](cut)


def normalized(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """float32 [n, dim] → the same of unit length; zero vectors stay zero."""
    norms = np.sqrt(np.add.reduce(vectors * vectors, axis=1, keepdims=True))  # np.linalg.norm's, at half its cost
    return vectors / np.maximum(norms, np.float32(SMALLEST_NORM))


def _to_float32(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return vectors


def _to_int8(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
    limit = min(1.0, RANGE_IN_DEVIATIONS / math.sqrt(vectors.shape[1]))
    scaled = vectors * np.float32(127 / limit)
    return np.clip(np.rint(scaled, out=scaled), -127, 127, out=scaled).astype(np.int8)


def _to_uint8(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return _to_int8(vectors).view(np.uint8) ^ np.uint8(128)  # plus 128: in two's complement, the highest bit turned


def _to_ubinary(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return np.packbits(vectors > 0, axis=1)


def _to_binary(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
    return (_to_ubinary(vectors) ^ np.uint8(128)).view(np.int8)


_QUANTIZERS: dict[OutputDtype, Callable[[npt.NDArray[np.float32]], Vectors]] = {
    "float32": _to_float32,
    "int8": _to_int8,
    "uint8": _to_uint8,
    "binary": _to_binary,
    "ubinary": _to_ubinary,
}
