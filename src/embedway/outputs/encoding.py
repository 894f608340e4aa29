"""Finished vectors → the body of an answer, with exactly OpenAI's keys in OpenAI's order."""

from __future__ import annotations

import binascii
from collections.abc import Iterable
from typing import Literal

import orjson

from embedway.outputs.vector_types import Vectors

EncodingFormat = Literal["float", "base64"]

VALUES_PER_PIECE = 32_768
"""orjson holds the GIL: pieces of about a millisecond let the event loop run while a thread writes a large answer."""


def embedding_response(vectors: Vectors, *, encoding_format: EncodingFormat, model: str, prompt_tokens: int) -> bytes:
    """The JSON of `POST /v1/embeddings`.

    `vectors` are [n, length] of float32, int8 or uint8, finite, with the values of a row side by side. `float` writes
    numbers, the shortest that read back as the same float32; `base64` writes a row's bytes, little-endian.
    """
    pieces: list[bytes | memoryview] = [b'{"object":"list","data":[']
    rows_per_piece = max(1, VALUES_PER_PIECE // vectors.shape[1])
    for start in range(0, len(vectors), rows_per_piece):
        rows = vectors[start : start + rows_per_piece]
        values: Iterable[object] = rows if encoding_format == "float" else _base64_of_rows(rows)
        data = [{"object": "embedding", "index": i, "embedding": value} for i, value in enumerate(values, start)]
        if start:
            pieces.append(b",")
        pieces.append(memoryview(orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY))[1:-1])
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    pieces.append(b"]," + orjson.dumps({"model": model, "usage": usage})[1:])
    return b"".join(pieces)


def _base64_of_rows(rows: Vectors) -> list[str]:
    little_endian = rows.astype(rows.dtype.newbyteorder("<"), copy=False)
    return [binascii.b2a_base64(row, newline=False).decode("ascii") for row in little_endian]
