"""Whatever is sent, the answer is an embedding or one clear error: never a 5xx, never a hang."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import positive_data_acceptance

from running_server import RunningServer

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
TIMEOUT_SECONDS = 60

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-2, 40_000),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=40),
    st.sampled_from(["", " ", "float", "base64", "end", "query", "binary", "\x00", "a" * 3000, MODEL]),
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
items = st.one_of(
    st.text(max_size=200),
    st.lists(st.integers(-1, 30_600), max_size=300),
    st.fixed_dictionaries({}, optional={"text": scalars, "image": scalars, "video": scalars, "type": scalars}),
    anything,
)
FIELDS = [
    *("encoding_format", "dimensions", "user", "priority", "rid", "lora_path", "truncate", "normalize", "input_type"),
    *("prompt_name", "prompt", "output_dtype", "timeout_ms"),
]
bodies = st.fixed_dictionaries(
    {"input": items | st.lists(items, max_size=6), "model": st.just(MODEL) | scalars},
    optional=dict.fromkeys(FIELDS, anything),
)


@pytest.fixture(scope="module")
def client(minilm_server: RunningServer):
    with httpx.Client(base_url=minilm_server.url, timeout=TIMEOUT_SECONDS) as client:
        yield client


def check(response: httpx.Response) -> None:
    assert response.status_code < 500, response.text
    answer = response.json()
    if response.status_code == 200:
        return
    assert set(answer) == {"error"}
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["message"]


def as_json(body: object) -> bytes:
    """With lone surrogates escaped, as a client may well send them."""
    return json.dumps(body).encode()


many = settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow], deadline=None)


@many
@given(body=bodies)
def test_bodies_near_a_right_one(client: httpx.Client, body: dict[str, Any]) -> None:
    check(client.post("/v1/embeddings", content=as_json(body), headers={"Content-Type": "application/json"}))


@many
@given(body=anything, path=st.sampled_from(["/v1/embeddings", "/encode", "/tokenize", "/detokenize"]))
def test_any_json_on_any_route(client: httpx.Client, body: object, path: str) -> None:
    check(client.post(path, content=as_json(body), headers={"Content-Type": "application/json"}))


@many
@given(body=st.binary(max_size=300))
def test_any_bytes(client: httpx.Client, body: bytes) -> None:
    check(client.post("/v1/embeddings", content=body, headers={"Content-Type": "application/json"}))


@many
@given(path=st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="?#"), max_size=40))
def test_any_path(client: httpx.Client, path: str) -> None:
    response = client.get(httpx.URL(str(client.base_url)).copy_with(raw_path=b"/" + path.encode()))
    assert response.status_code < 500


def test_what_the_schema_describes(minilm_server: RunningServer) -> None:
    """Statuses, content types and bodies are as /openapi.json declares them, for generated requests of each route."""
    load_all_checks()
    schema = schemathesis.openapi.from_url(f"{minilm_server.url}/openapi.json")
    operations = [schema[path][method] for path in schema for method in schema[path]]
    assert {"/v1/embeddings", "/encode", "/tokenize"} < {operation.path for operation in operations}

    for operation in operations:
        for mode in ("positive", "negative") if operation.body else ("positive",):

            @settings(max_examples=15, suppress_health_check=list(HealthCheck), deadline=None, database=None)
            @given(case=operation.as_strategy(generation_mode=GenerationMode(mode)))
            def check_operation(case: schemathesis.Case) -> None:
                if isinstance(case.body, dict) and isinstance(case.body.get("timeout_ms"), int):
                    del case.body["timeout_ms"]  # a short one gets a 504, and rightly
                # Which ids and lengths a model takes is not in the schema: a right shape may get a 400.
                case.call_and_validate(timeout=TIMEOUT_SECONDS, excluded_checks=[positive_data_acceptance])

            check_operation()
