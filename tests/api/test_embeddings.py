from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from embedway.outputs.vector_types import OutputDtype, finish, normalized
from fake_model import NAN_ID, POISON_ID, fake_vector

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
Connect = Callable[..., contextlib.AbstractAsyncContextManager[httpx.AsyncClient]]

FOX = "The quick brown fox jumps over the lazy dog"
FOX_IDS = [101, 1996, 4248, 2829, 4419, 14523, 2058, 1996, 13971, 3899, 102]


def unit(ids: npt.ArrayLike) -> npt.NDArray[np.float32]:
    return normalized(fake_vector(ids)[None])[0]


async def embed(client: httpx.AsyncClient, value: Any, **fields: Any) -> dict[str, Any]:
    response = await client.post("/v1/embeddings", json={"model": MODEL, "input": value, **fields})
    assert response.status_code == 200, response.text
    return response.json()


async def error(client: httpx.AsyncClient, body: Any, status: int = 400) -> dict[str, Any]:
    """The error of a refused request, its shape checked."""
    response = await client.post("/v1/embeddings", json=body)
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    assert list(response.json()["error"]) == ["message", "type", "param", "code"]
    return response.json()["error"]


def vectors(answer: dict[str, Any]) -> npt.NDArray[np.float32]:
    return np.array([item["embedding"] for item in answer["data"]], dtype=np.float32)


async def test_an_answer_has_exactly_openai_s_keys(client: httpx.AsyncClient) -> None:
    answer = await embed(client, FOX)
    assert list(answer) == ["object", "data", "model", "usage"]
    assert answer["object"] == "list"
    assert list(answer["data"][0]) == ["object", "index", "embedding"]
    assert answer["data"][0]["object"] == "embedding"
    assert answer["usage"] == {"prompt_tokens": 11, "total_tokens": 11}
    assert answer["model"] == MODEL


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (FOX, [FOX_IDS]),
        ([FOX], [FOX_IDS]),
        (["hello world", FOX], [[101, 7592, 2088, 102], FOX_IDS]),
        ([7592, 2088], [[7592, 2088]]),
        ([[7592, 2088], [101, 102]], [[7592, 2088], [101, 102]]),
        ({"text": FOX}, [FOX_IDS]),
        ([{"text": FOX}, {"text": "hello world", "image": None}], [FOX_IDS, [101, 7592, 2088, 102]]),
    ],
)
async def test_every_form_of_input_gives_the_vectors_of_its_items_in_order(
    client: httpx.AsyncClient, value: Any, expected: list[list[int]]
) -> None:
    answer = await embed(client, value)
    np.testing.assert_allclose(vectors(answer), [unit(ids) for ids in expected], rtol=1e-6)
    assert [item["index"] for item in answer["data"]] == list(range(len(expected)))
    assert answer["usage"]["prompt_tokens"] == sum(map(len, expected))


async def test_base64_carries_the_same_numbers_bit_for_bit(client: httpx.AsyncClient) -> None:
    as_text = await embed(client, ["a", "b"], encoding_format="base64")
    as_floats = vectors(await embed(client, ["a", "b"], encoding_format="float"))
    decoded = [np.frombuffer(base64.b64decode(item["embedding"]), dtype="<f4") for item in as_text["data"]]
    np.testing.assert_array_equal(decoded, as_floats)


async def test_normalize_false_gives_the_pooled_vector_as_it_is(client: httpx.AsyncClient) -> None:
    answer = await embed(client, [[5, 6, 7]], normalize=False)
    np.testing.assert_array_equal(vectors(answer), [fake_vector([5, 6, 7])])


async def test_null_is_the_same_as_leaving_a_field_out(client: httpx.AsyncClient) -> None:
    names = "encoding_format dimensions user priority rid lora_path truncate normalize input_type prompt prompt_name"
    answer = await embed(client, "a", **dict.fromkeys([*names.split(), "output_dtype"]))
    assert answer == await embed(client, "a")


async def test_unknown_fields_and_priority_and_user_are_accepted(client: httpx.AsyncClient) -> None:
    assert await embed(client, "a", anything=[1], priority=-5, user="me") == await embed(client, "a")


@pytest.mark.parametrize("dtype", ["int8", "uint8", "binary", "ubinary"])
async def test_quantised_vectors_are_arrays_of_integers(client: httpx.AsyncClient, dtype: OutputDtype) -> None:
    answer = await embed(client, [[5, 6, 7]], output_dtype=dtype)
    expected = finish(fake_vector([5, 6, 7])[None], dimensions=None, normalize=True, output_dtype=dtype)
    assert answer["data"][0]["embedding"] == expected[0].tolist()


async def test_a_prompt_is_put_before_the_text(client: httpx.AsyncClient) -> None:
    assert await embed(client, "world", prompt="hello ") == await embed(client, "hello world")


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": [1, "2"]}, "input[1]", "invalid_type"),
        ({"input": [True]}, "input[0]", "invalid_type"),
        ({"input": [1.0]}, "input[0]", "invalid_type"),
        ({"input": []}, "input", "empty_input"),
        ({"input": [[]]}, "input[0]", "empty_input"),
        ({"input": ""}, "input", "empty_input"),
        ({"input": " \n\t"}, "input", "empty_input"),
        ({"input": ["a", " "]}, "input[1]", "empty_input"),
        ({"input": ["a", 1]}, "input[1]", "invalid_type"),
        ({"input": ["a", {"text": "b"}]}, "input[1]", "invalid_type"),
        ({"input": [[1], 2]}, "input[1]", "invalid_type"),
        ({"input": [[[1]]]}, "input[0][0]", "invalid_type"),
        ({"input": {}}, "input", "invalid_value"),
        ({"input": [{}]}, "input[0]", "invalid_value"),
        ({"input": None}, "input", "invalid_type"),
        ({"input": [1, 30522]}, "input[1]", "invalid_token_id"),
        ({"input": [[1], [2, -1]]}, "input[1][1]", "invalid_token_id"),
        ({"input": [10**18]}, "input[0]", "invalid_token_id"),
        ({"input": [{"image": "http://a/b.png"}]}, "input[0].image", "media_not_supported"),
        ({"input": [1] * 257}, "input", "context_length_exceeded"),
        ({"input": ["a", "b " * 300]}, "input[1]", "context_length_exceeded"),
        ({"input": "a", "model": 5}, "model", "invalid_type"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", "invalid_value"),
        ({"input": "a", "encoding_format": 1}, "encoding_format", "invalid_type"),
        ({"input": "a", "dimensions": "8"}, "dimensions", "invalid_type"),
        ({"input": "a", "dimensions": 8.5}, "dimensions", "invalid_type"),
        ({"input": "a", "dimensions": True}, "dimensions", "invalid_type"),
        ({"input": "a", "dimensions": 0}, "dimensions", "invalid_value"),
        ({"input": "a", "dimensions": 100}, "dimensions", "dimensions_not_supported"),
        ({"input": "a", "dimensions": 1000}, "dimensions", "dimensions_not_supported"),
        ({"input": "a", "normalize": "yes"}, "normalize", "invalid_type"),
        ({"input": "a", "truncate": "middle"}, "truncate", "invalid_value"),
        ({"input": "a", "priority": 2**63}, "priority", "invalid_value"),
        ({"input": "a", "priority": 1.5}, "priority", "invalid_type"),
        ({"input": "a", "prompt_name": "query"}, "prompt_name", "unknown_prompt"),
        ({"input": "a", "prompt": "x", "input_type": "query"}, "prompt", "invalid_value"),
        ({"input": [1], "prompt": "x"}, "prompt", "invalid_value"),
        ({"input": "a", "output_dtype": "int4"}, "output_dtype", "invalid_value"),
        ({"input": "a", "output_dtype": "int8", "normalize": False}, "output_dtype", "invalid_value"),
        ({"input": "a", "rid": "no spaces"}, "rid", "invalid_value"),
        ({"input": "a", "rid": 7}, "rid", "invalid_type"),
        ({"input": ["a", "b"], "rid": ["x"]}, "rid", "invalid_value"),
    ],
)
async def test_bad_input_is_refused_with_the_place_at_fault(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str, code: str
) -> None:
    refused = await error(client, {"model": MODEL, **fields})
    assert (refused["param"], refused["code"]) == (param, code), refused
    assert refused["type"] == "invalid_request_error"
    assert param in refused["message"]


@pytest.mark.parametrize("field", ["input", "model"])
async def test_a_missing_field_is_named(client: httpx.AsyncClient, field: str) -> None:
    body = {"model": MODEL, "input": "a"}
    del body[field]
    refused = await error(client, body)
    assert (refused["param"], refused["code"]) == (field, "missing_field")


async def test_ids_of_another_tokenizer_get_a_message_that_names_the_remedy(client: httpx.AsyncClient) -> None:
    refused = await error(client, {"model": MODEL, "input": [[100257]]})
    assert "100257" in refused["message"]
    assert "30521" in refused["message"]
    assert "tokenizer of this model" in refused["message"]
    assert "check_embedding_ctx_length=False" in refused["message"]


async def test_too_long_names_length_limit_and_remedy(client: httpx.AsyncClient) -> None:
    refused = await error(client, {"model": MODEL, "input": "b " * 300})
    assert "302" in refused["message"]
    assert "256" in refused["message"]
    assert "truncate" in refused["message"]


@pytest.mark.parametrize(
    ("truncate", "kept"), [("end", [101, *[1037] * 254, 102]), ("start", [101, *[1038] * 254, 102])]
)
async def test_truncation_keeps_the_special_tokens(client: httpx.AsyncClient, truncate: str, kept: list[int]) -> None:
    answer = await embed(client, "a " * 300 + "b " * 300, truncate=truncate)
    np.testing.assert_allclose(vectors(answer), [unit(kept)], rtol=1e-6)
    assert answer["usage"]["prompt_tokens"] == 256


async def test_exactly_the_limit_is_fine(client: httpx.AsyncClient) -> None:
    assert (await embed(client, "a " * 254))["usage"]["prompt_tokens"] == 256
    assert (await embed(client, [5] * 256))["usage"]["prompt_tokens"] == 256


async def test_the_server_s_truncation_is_the_default(connect: Connect) -> None:
    async with connect(truncate="end") as client:
        assert (await embed(client, "a " * 999))["usage"]["prompt_tokens"] == 256
        refused = await error(client, {"model": MODEL, "input": "a " * 999, "truncate": "none"})
        assert refused["code"] == "context_length_exceeded"


async def test_requests_over_the_limits_of_items_or_tokens_are_refused_whole(connect: Connect) -> None:
    async with connect(max_items=3, max_request_tokens=20) as client:
        assert (await error(client, {"model": MODEL, "input": ["a"] * 4}))["code"] == "too_many_items"
        assert (await error(client, {"model": MODEL, "input": [[1] * 7] * 3}))["code"] == "too_many_tokens"
        assert len((await embed(client, ["a"] * 3))["data"]) == 3


async def test_an_unknown_model_is_a_404(client: httpx.AsyncClient) -> None:
    refused = await error(client, {"model": "gpt-4", "input": "a"}, 404)
    assert (refused["code"], refused["param"]) == ("model_not_found", "model")
    assert MODEL in refused["message"]


async def test_every_served_name_and_alias_is_known_and_echoed(connect: Connect) -> None:
    async with connect(served_model_name=["one", "with:colon"], alias=["text-embedding-3-small"]) as client:
        for name in ("one", "with:colon", "text-embedding-3-small"):
            assert (await embed(client, "a", model=name))["model"] == name
        listed = (await client.get("/v1/models")).json()["data"]
        assert [card["id"] for card in listed] == ["one", "with:colon", "text-embedding-3-small"]
        assert (await error(client, {"model": MODEL, "input": "a"}, 404))["code"] == "model_not_found"
        assert (await error(client, {"model": "one:mine", "input": "a"}, 404))["code"] == "adapter_not_found"


async def test_dimensions_are_cut_then_renormalised_where_the_operator_allows_it(connect: Connect) -> None:
    async with connect(matryoshka=True) as client:
        got = vectors(await embed(client, [[5, 6, 7]], dimensions=4))
        cut = fake_vector([5, 6, 7])[:4]
        np.testing.assert_allclose(got, [cut / np.linalg.norm(cut)], rtol=1e-6)


async def test_a_failing_item_is_a_500_that_names_it_and_hides_the_cause(client: httpx.AsyncClient) -> None:
    refused = await error(client, {"model": MODEL, "input": [[1], [POISON_ID]]}, 500)
    assert (refused["code"], refused["param"], refused["type"]) == ("item_failed", "input[1]", "server_error")
    assert "poison" not in refused["message"]
    refused = await error(client, {"model": MODEL, "input": [[NAN_ID]]}, 500)
    assert (refused["code"], refused["param"]) == ("non_finite_vector", "input[0]")


async def test_before_the_engine_is_ready_requests_get_a_503_with_retry_after(connect: Connect) -> None:
    async with connect(with_engine=False) as client:
        response = await client.post("/v1/embeddings", json={"model": MODEL, "input": "a"})
        assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_not_ready")
        assert int(response.headers["retry-after"]) > 0
        for path in ("/health", "/readyz", "/health_generate"):
            assert (await client.get(path)).status_code == 503
        assert (await client.get("/livez")).status_code == 200


async def test_rid_becomes_the_request_id(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/embeddings", json={"model": MODEL, "input": "a", "rid": "mine-1"})
    assert response.headers["x-request-id"] == "mine-1"
    response = await client.post(
        "/v1/embeddings", json={"model": MODEL, "input": "a"}, headers={"X-Request-Id": "theirs"}
    )
    assert response.headers["x-request-id"] == "theirs"


async def test_encode_answers_in_sglang_s_form(client: httpx.AsyncClient) -> None:
    one = (await client.post("/encode", json={"text": FOX, "rid": "r"})).json()
    np.testing.assert_allclose(one["embedding"], unit(FOX_IDS), rtol=1e-6)
    assert one["meta_info"]["prompt_tokens"] == 11
    assert one["meta_info"]["id"] == "r"
    several = (await client.post("/encode", json={"input_ids": [[1, 2], [3]]})).json()
    np.testing.assert_allclose([item["embedding"] for item in several], [unit([1, 2]), unit([3])], rtol=1e-6)


@pytest.mark.parametrize(
    ("body", "param"),
    [({}, "text"), ({"text": "a", "input_ids": [1]}, "input_ids"), ({"text": "a", "image_data": "x"}, "image_data")],
)
async def test_encode_takes_one_of_text_and_input_ids(
    client: httpx.AsyncClient, body: dict[str, Any], param: str
) -> None:
    response = await client.post("/encode", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
