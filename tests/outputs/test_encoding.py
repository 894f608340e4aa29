from __future__ import annotations

import base64
import json
from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from openai.types import CreateEmbeddingResponse

from embedway.outputs.encoding import (
    VALUES_PER_PIECE,
    EncodingFormat,
    embedding_response,
    encode_response,
    token_list,
    token_lists,
)
from embedway.outputs.vector_types import OutputDtype, Vectors, finish, normalized


def written(vectors: Vectors, encoding_format: EncodingFormat = "float", model: str = "m", tokens: int = 5) -> bytes:
    return b"".join(embedding_response(vectors, encoding_format=encoding_format, model=model, prompt_tokens=tokens))


def response_of(vectors: Vectors, encoding_format: EncodingFormat = "float") -> dict:
    return json.loads(written(vectors, encoding_format))


def unit_vectors(n: int, dim: int) -> npt.NDArray[np.float32]:
    return normalized(np.random.default_rng(0).normal(size=(n, dim)).astype(np.float32))


FINITE = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 20)),
    elements=st.floats(allow_nan=False, allow_infinity=False, width=32),
)


def test_the_body_is_openais_key_by_key() -> None:
    vectors = np.array([[1.0, -0.5], [0.25, 0.1]], dtype=np.float32)
    assert written(vectors, model='a "b"/é', tokens=11).decode() == (
        '{"object":"list","data":['
        '{"object":"embedding","index":0,"embedding":[1.0,-0.5]},'
        '{"object":"embedding","index":1,"embedding":[0.25,0.1]}'
        '],"model":"a \\"b\\"/é","usage":{"prompt_tokens":11,"total_tokens":11}}'
    )


def test_openais_client_knows_every_key() -> None:
    body = written(unit_vectors(2, 4))
    parsed = CreateEmbeddingResponse.model_validate_json(body, strict=True)
    assert parsed.to_dict() == json.loads(body)
    assert not parsed.model_extra
    assert not any(entry.model_extra for entry in parsed.data)


@given(FINITE)
def test_numbers_read_back_as_the_same_float32(vectors: Vectors) -> None:
    read = np.array([entry["embedding"] for entry in response_of(vectors)["data"]], dtype=np.float32)
    assert read.tobytes() == vectors.tobytes()


@given(FINITE)
def test_base64_is_the_float_form_bit_for_bit(vectors: Vectors) -> None:
    texts = [entry["embedding"] for entry in response_of(vectors, "base64")["data"]]
    read = np.stack([np.frombuffer(base64.b64decode(text), dtype="float32") for text in texts])
    numbers = np.array([entry["embedding"] for entry in response_of(vectors)["data"]], dtype=np.float32)
    assert read.tobytes() == numbers.tobytes()


@pytest.mark.parametrize("output_dtype", [name for name in get_args(OutputDtype) if name != "float32"])
def test_quantised_vectors_travel_as_integers_or_as_their_bytes(output_dtype: OutputDtype) -> None:
    vectors = finish(unit_vectors(2, 16), dimensions=None, normalize=True, output_dtype=output_dtype)
    numbers = [entry["embedding"] for entry in response_of(vectors)["data"]]
    assert numbers == vectors.tolist()
    texts = [entry["embedding"] for entry in response_of(vectors, "base64")["data"]]
    assert [np.frombuffer(base64.b64decode(text), vectors.dtype).tolist() for text in texts] == numbers


@pytest.mark.parametrize("encoding_format", get_args(EncodingFormat))
def test_a_cut_view_of_vectors_is_written_as_its_copy(encoding_format: EncodingFormat) -> None:
    cut = unit_vectors(3, 16)[:, :5]
    assert response_of(cut, encoding_format) == response_of(cut.copy(), encoding_format)


@pytest.mark.parametrize("encoding_format", get_args(EncodingFormat))
def test_pieces_join_to_one_list_without_loss(encoding_format: EncodingFormat) -> None:
    dim = VALUES_PER_PIECE // 4
    for n in (3, 4, 5, 9):
        vectors = np.arange(n, dtype=np.float32)[:, None] + np.zeros((n, dim), np.float32)
        data = response_of(vectors, encoding_format)["data"]
        assert [entry["index"] for entry in data] == list(range(n))
        alone = [response_of(vectors[i : i + 1], encoding_format)["data"][0]["embedding"] for i in range(n)]
        assert [entry["embedding"] for entry in data] == alone


def test_one_vector_longer_than_a_piece_is_written_whole() -> None:
    vectors = np.ones((2, VALUES_PER_PIECE + 1), dtype=np.float32)
    assert [len(entry["embedding"]) for entry in response_of(vectors)["data"]] == [VALUES_PER_PIECE + 1] * 2


def test_no_piece_of_a_large_answer_has_more_values_than_take_a_moment() -> None:
    pieces = embedding_response(unit_vectors(200, 384), encoding_format="float", model="m", prompt_tokens=1)
    assert max(piece.count(b".") for piece in pieces) <= VALUES_PER_PIECE


@pytest.mark.parametrize("n", [1, VALUES_PER_PIECE // 100, VALUES_PER_PIECE // 100 + 1, 400])
def test_encode_answers_are_one_list_whatever_the_pieces(n: int) -> None:
    vectors, infos = unit_vectors(n, 100), [{"id": str(i)} for i in range(n)]
    answers = json.loads(b"".join(encode_response(vectors, infos, is_single=False)))
    assert [answer["meta_info"] for answer in answers] == infos
    assert np.array([answer["embedding"] for answer in answers], np.float32).tobytes() == vectors.tobytes()


def test_a_single_answer_of_encode_is_no_list() -> None:
    answer = json.loads(b"".join(encode_response(np.ones((1, 2), np.float32), [{"id": "a"}], is_single=True)))
    assert answer == {"embedding": [1.0, 1.0], "meta_info": {"id": "a"}}


@pytest.mark.parametrize("length", [0, 1, VALUES_PER_PIECE, 2 * VALUES_PER_PIECE + 1])
def test_ids_are_written_in_order(length: int) -> None:
    ids = np.arange(length, dtype=np.int32)
    assert json.loads(b"".join(token_list(ids))) == ids.tolist()
    assert json.loads(b"".join(token_lists([ids, ids[:1]]))) == [ids.tolist(), ids[:1].tolist()]
