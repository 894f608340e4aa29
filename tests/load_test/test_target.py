from __future__ import annotations

import pytest

from embedway.errors import InvalidSetting
from embedway.load_test.target import read_target


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://127.0.0.1:30000", "http://127.0.0.1:30000/v1/embeddings"),
        ("http://127.0.0.1:30000/", "http://127.0.0.1:30000/v1/embeddings"),
        ("localhost:8000", "http://localhost:8000/v1/embeddings"),
        ("https://api.example.org/v1", "https://api.example.org:443/v1/embeddings"),
        ("https://api.example.org/openai/v1/", "https://api.example.org:443/openai/v1/embeddings"),
        ("http://host/embeddings", "http://host:80/embeddings"),
        ("http://[::1]:30000", "http://[::1]:30000/v1/embeddings"),
    ],
)
def test_a_server_a_base_url_and_the_route_itself_are_understood(given: str, url: str) -> None:
    assert read_target(given, None).url == url


def test_the_models_are_listed_beside_the_embeddings() -> None:
    assert read_target("http://host/a/v1", None).models_path == "/a/v1/models"


@pytest.mark.parametrize(
    "url", ["", "ftp://host", "http://", "http://host:port", "http://host/a b", "http://host/\r\nX: y"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidSetting, match="URL: "):
        read_target(url, None)


def test_a_key_that_would_write_headers_of_its_own_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="--api-key") as caught:
        read_target("http://host", "s3cret\r\nX: y")
    assert "s3cret" not in caught.value.message


def test_the_key_is_sent_as_a_bearer_token() -> None:
    assert b"\r\nAuthorization: Bearer key\r\n" in read_target("http://host", "key").head("GET", "/")
    assert b"Authorization" not in read_target("http://host", None).head("GET", "/")
