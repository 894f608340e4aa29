"""Whatever is wrong, the answer is OpenAI's error body."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import httpx
import pytest

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
JSON = {"Content-Type": "application/json"}
Connect = Callable[..., contextlib.AbstractAsyncContextManager[httpx.AsyncClient]]


def check_error(response: httpx.Response, status: int, code: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"error"}
    body = response.json()["error"]
    assert set(body) == {"message", "type", "param", "code"}
    assert body["code"] == code, body
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"model": "a", "input": "b"',
        b'{"input": NaN}',
        b"\xff\xfe",
        b'{"input": "\xff"}',
        b'{"input": "\\ud800"}',
        b"[" * 20_000 + b"]" * 20_000,
        b'{"input": ' + b"[" * 20_000 + b"1" + b"]" * 20_000 + b"}",
        b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
        b"\x00",
    ],
)
async def test_what_is_no_json_is_a_400(client: httpx.AsyncClient, body: bytes) -> None:
    check_error(await client.post("/v1/embeddings", content=body, headers=JSON), 400, "invalid_json")


@pytest.mark.parametrize("body", [b"null", b"[]", b'"a"', b"5", b"true"])
async def test_json_that_is_no_object_is_a_400(client: httpx.AsyncClient, body: bytes) -> None:
    check_error(await client.post("/v1/embeddings", content=body, headers=JSON), 400, "invalid_type")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonp"])
async def test_another_content_type_is_a_415(client: httpx.AsyncClient, content_type: str) -> None:
    response = await client.post("/v1/embeddings", content=b"{}", headers={"Content-Type": content_type})
    check_error(response, 415, "unsupported_media_type")


async def test_a_content_type_may_have_parameters(client: httpx.AsyncClient) -> None:
    body = b'{"model": "%s", "input": "a"}' % MODEL.encode()
    response = await client.post(
        "/v1/embeddings", content=body, headers={"Content-Type": "Application/JSON; charset=utf-8"}
    )
    assert response.status_code == 200


@pytest.mark.parametrize("path", ["/nothing", "/v1/embeddings/", "/v1", "/%2e%2e/etc/passwd", "/v1/embeddings%00"])
async def test_an_unknown_route_is_a_404(client: httpx.AsyncClient, path: str) -> None:
    check_error(await client.get(path), 404, "route_not_found")


async def test_an_unknown_model_s_card_is_a_404(client: httpx.AsyncClient) -> None:
    check_error(await client.get("/v1/models/nobody"), 404, "model_not_found")


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/embeddings"), ("POST", "/health"), ("DELETE", "/v1/models")])
async def test_a_wrong_method_is_a_405_that_names_the_right_one(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    response = await client.request(method, path)
    check_error(response, 405, "method_not_allowed")
    assert response.headers["allow"] in response.json()["error"]["message"]


async def test_a_body_over_the_limit_is_a_413_whether_its_length_is_declared_or_not(connect: Connect) -> None:
    async def chunks():
        for _ in range(20):
            yield b" " * 100_000

    async with connect(max_body_mb=1) as client:
        for content in (b" " * 2_000_000, chunks()):
            response = await client.post("/v1/embeddings", content=content, headers=JSON)
            check_error(response, 413, "body_too_large")


async def test_without_the_key_everything_but_health_is_a_401(connect: Connect) -> None:
    async with connect(api_key=["first", "second"]) as client:
        for path in (
            "/v1/models",
            "/metrics",
            "/docs",
            "/openapi.json",
            "/server_info",
            "/nothing",
            "/health_generate",
        ):
            response = await client.get(path)
            check_error(response, 401, "invalid_api_key")
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.json()["error"]["type"] == "authentication_error"
        for path in ("/health", "/livez", "/readyz"):
            assert (await client.get(path)).status_code == 200
        for header in ("Bearer wrong", "Basic first", "first", "Bearer ", "Bearer first second", "Bearer f\xfcrst"):
            response = await client.get("/v1/models", headers={b"Authorization": header.encode("latin-1")})
            check_error(response, 401, "invalid_api_key")
        for key in ("first", "second"):
            response = await client.get("/v1/models", headers={"Authorization": f"Bearer {key}"})
            assert response.status_code == 200


async def test_a_key_is_shown_nowhere(connect: Connect) -> None:
    async with connect(api_key=["s3cret"]) as client:
        response = await client.get("/server_info", headers={"Authorization": "Bearer s3cret"})
        assert response.status_code == 200
        assert "s3cret" not in response.text


@pytest.mark.parametrize(
    ("path", "body", "broken"),
    [
        ("/v1/embeddings", {"model": MODEL, "input": "a"}, "embedway.api.embedding_call.finish"),
        ("/tokenize", {"prompt": "a"}, "embedway.api.tokenize_routes.read_body"),
    ],
)
async def test_an_internal_fault_is_a_500_without_a_trace(
    client: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    path: str,
    body: dict[str, str],
    broken: str,
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(broken, fail)
    response = await client.post(path, json=body, headers={"X-Request-Id": "r-17"})
    check_error(response, 500, "internal_error")
    assert "secret" not in response.text
    assert "r-17" in response.json()["error"]["message"]
    assert any("r-17" in record.getMessage() for record in caplog.records)


async def test_no_origin_may_call_by_default_and_the_allowed_one_may(connect: Connect) -> None:
    preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    async with connect() as client:
        response = await client.get("/v1/models", headers={"Origin": "https://a.example"})
        assert "access-control-allow-origin" not in response.headers
    async with connect(cors_allow_origin=["https://a.example"], api_key=["k"]) as client:
        response = await client.options("/v1/embeddings", headers=preflight)
        assert response.headers["access-control-allow-origin"] == "https://a.example"
        response = await client.options("/v1/embeddings", headers={**preflight, "Origin": "https://b.example"})
        assert "access-control-allow-origin" not in response.headers
