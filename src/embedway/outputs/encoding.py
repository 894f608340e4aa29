"""Finished vectors, or token ids → the body of an answer, with exactly OpenAI's keys in OpenAI's order."""

from __future__ import annotations

import binascii
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson

from embedway.outputs.vector_types import Vectors

EncodingFormat = Literal["float", "base64"]

VALUES_PER_PIECE = 16_384
"""orjson holds the GIL: pieces of half a millisecond let the event loop run while a thread writes a large answer."""


def embedding_response(
    vectors: Vectors, *, encoding_format: EncodingFormat, model: str, prompt_tokens: int
) -> list[bytes]:
    """The JSON of `POST /v1/embeddings`, in pieces.

    `vectors` are [n, length] of float32, int8 or uint8, finite, with the values of a row side by side. `float` writes
    numbers, the shortest that read back as the same float32; `base64` writes a row's bytes, little-endian.
    """

    def objects(start: int, rows: Vectors) -> list[object]:
        values: Iterable[object] = rows if encoding_format == "float" else _base64_of_rows(rows)
        return [{"object": "embedding", "index": i, "embedding": value} for i, value in enumerate(values, start)]

    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    end = b"]," + orjson.dumps({"model": model, "usage": usage})[1:]
    return _array(vectors, objects, start=b'{"object":"list","data":[', end=end)


def encode_response(vectors: Vectors, meta_infos: Sequence[Mapping[str, object]], *, is_single: bool) -> list[bytes]:
    """The JSON of `POST /encode`, in pieces: one answer for each row of float32 [n, length], or a single one's own."""

    def objects(start: int, rows: Vectors) -> list[object]:
        return [{"embedding": row, "meta_info": meta_infos[i]} for i, row in enumerate(rows, start)]

    return _array(vectors, objects, start=b"" if is_single else b"[", end=b"" if is_single else b"]")


def token_lists(lists: Sequence[npt.NDArray[np.int32]]) -> list[bytes]:
    """The JSON of several lists of ids, in pieces."""
    pieces = [b"["]
    for i, ids in enumerate(lists):
        pieces += [b",", *token_list(ids)] if i else token_list(ids)
    return [*pieces, b"]"]


def token_list(ids: npt.NDArray[np.int32]) -> list[bytes]:
    return _array(ids, lambda _, piece: piece, start=b"[", end=b"]")


def _array(
    values: npt.NDArray[Any], elements: Callable[[int, Any], object], *, start: bytes, end: bytes
) -> list[bytes]:
    """`elements` makes a part of `values`, and the number of its first row, into a JSON array."""
    rows_per_piece = max(1, VALUES_PER_PIECE // math.prod(values.shape[1:]))
    pieces = [start]
    for first in range(0, len(values), rows_per_piece):
        part = elements(first, values[first : first + rows_per_piece])
        written = orjson.dumps(part, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
        pieces.append(b"," + written if first else written)
    pieces.append(end)
    return pieces


def _base64_of_rows(rows: Vectors) -> list[str]:
    little_endian = rows.astype(rows.dtype.newbyteorder("<"), copy=False)
    return [binascii.b2a_base64(row, newline=False).decode("ascii") for row in little_endian]
