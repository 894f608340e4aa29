from __future__ import annotations

import platform
from pathlib import Path

import httpx

from embedway.config import load_settings
from embedway.model_settings import names_of

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
STAGE_COUNTS = (("parse", 2.0), ("media", 0.0), ("tokenize", 2.0), ("queue", 1.0), ("compute", 1.0), ("encode", 1.0))


async def test_models_are_listed_and_found_by_id(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/v1/models")).json()
    assert listed["object"] == "list"
    card = listed["data"][0]
    assert (card["id"], card["object"], card["max_model_len"]) == (MODEL, "model", 256)
    assert (await client.get(f"/v1/models/{MODEL}")).json() == card


async def test_tokenize_and_detokenize_go_round(client: httpx.AsyncClient) -> None:
    one = (await client.post("/tokenize", json={"prompt": "hello world"})).json()
    assert one == {"tokens": [101, 7592, 2088, 102], "count": 4, "max_model_len": 256}
    bare = (await client.post("/tokenize", json={"prompt": ["hello"], "add_special_tokens": False})).json()
    assert (bare["tokens"], bare["count"]) == ([[7592]], [1])
    assert (await client.post("/detokenize", json={"tokens": one["tokens"]})).json() == {"text": "hello world"}
    kept = {"tokens": [one["tokens"]], "skip_special_tokens": False}
    assert (await client.post("/detokenize", json=kept)).json() == {"text": ["[CLS] hello world [SEP]"]}


async def test_tokenize_takes_text_and_detokenize_ids(client: httpx.AsyncClient) -> None:
    assert (await client.post("/tokenize", json={"prompt": [1, 2]})).json()["error"]["param"] == "prompt"
    assert (await client.post("/detokenize", json={"tokens": "a"})).json()["error"]["param"] == "tokens"
    refused = (await client.post("/detokenize", json={"tokens": [40000]})).json()["error"]
    assert refused["code"] == "invalid_token_id"


async def test_tokenize_counts_texts_longer_than_the_model_reads(client: httpx.AsyncClient) -> None:
    answer = (await client.post("/tokenize", json={"prompt": "a " * 1000})).json()
    assert answer["count"] == 1002


async def test_health_is_green_once_the_engine_answers(client: httpx.AsyncClient) -> None:
    for path in ("/health", "/readyz", "/livez", "/health_generate"):
        assert (await client.get(path)).status_code == 200


async def test_model_info_says_what_the_checkpoint_declares(client: httpx.AsyncClient) -> None:
    info = (await client.get("/model_info")).json()
    assert info["embedding"]["pooling"] == ["mean"]
    assert info["embedding"]["dimension"] == 384
    assert info["is_generation"] is False
    assert (await client.get("/get_model_info")).json() == info


async def test_server_info_shows_settings_and_engines(client: httpx.AsyncClient) -> None:
    info = (await client.get("/server_info")).json()
    assert info["settings"]["port"] == 30000
    assert info["engines"][0]["dtype"] == "float32"
    assert info["engines"][0]["facts"] == {"backend": "numpy, for tests"}
    assert info["model"]["name"] == MODEL
    assert info["python"].endswith(platform.python_version())
    assert info["versions"]["numpy"]
    assert info["cpu"]["cores"] >= 1
    assert info["build"].keys() == {"wheel", "editable", "commit"}
    assert info["restarts"] == {}


async def test_metrics_count_requests_items_and_tokens(client: httpx.AsyncClient) -> None:
    await client.post("/v1/embeddings", json={"model": MODEL, "input": ["hello world", "hello"]})
    await client.post("/v1/embeddings", json={"model": MODEL, "input": []})
    text = (await client.get("/metrics")).text
    assert 'embedway_requests_total{route="/v1/embeddings",status="200"} 1.0' in text
    assert 'embedway_requests_total{route="/v1/embeddings",status="400"} 1.0' in text
    assert "embedway_items_total 2.0" in text
    assert "embedway_prompt_tokens_total 7.0" in text
    assert 'embedway_engine_ready{replica="0"} 1.0' in text


async def test_each_stage_of_a_request_is_measured_once(client: httpx.AsyncClient) -> None:
    await client.post("/v1/embeddings", json={"model": MODEL, "input": ["hello world", "hello"]})
    await client.post("/tokenize", json={"prompt": "hello"})
    lines = (await client.get("/metrics")).text.splitlines()
    counts = {stage: f'embedway_stage_seconds_count{{stage="{stage}"}} {count}' for stage, count in STAGE_COUNTS}
    assert [line for line in lines if line.startswith("embedway_stage_seconds_count")] == [*counts.values()]


async def test_the_schema_describes_the_request(client: httpx.AsyncClient) -> None:
    schema = (await client.get("/openapi.json")).json()
    body = schema["paths"]["/v1/embeddings"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["model"]
    assert body["oneOf"] == [{"required": ["input"]}, {"required": ["messages"]}]
    assert {"encoding_format", "dimensions", "truncate", "output_dtype"} < set(body["properties"])
    assert (await client.get("/docs")).status_code == 200


def test_a_folder_is_served_under_its_path_with_or_without_a_slash_and_its_last_part(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    for name in (str(folder), f"{folder}/"):
        names = names_of(load_settings({"model_path": name}))
        assert {name, str(folder), "my-model"} <= set(names)
