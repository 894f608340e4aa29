"""Keys: which are accepted, where they may come from, and that nothing but their digests is handed on."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from pydantic import SecretStr

from embedway.api_keys import NO_KEY, ApiKeys, read_key_file
from embedway.config import Settings, forget_secrets, load_settings
from embedway.engine.wire import ApiConfig
from embedway.errors import InvalidSetting
from embedway.serve import read_keys

KEYS = ["first-4410", "second-7391"]
ADMIN = "admin-8826"


def all_keys(tmp_path: Path) -> Settings:
    """Two keys by flag, one in a file, and the admin's."""
    path = tmp_path / "keys"
    path.write_text("# of the billing team\nthird-5512\n\n")
    return load_settings({"api_key": KEYS, "api_key_file": path, "admin_api_key": ADMIN})


def test_keys_are_numbered_in_their_order_and_the_admin_s_has_none_of_its_own(tmp_path: Path) -> None:
    keys = ApiKeys.of(all_keys(tmp_path))
    given = [*KEYS, "third-5512", ADMIN, "first-441", "", "# of the billing team"]
    assert [keys.number_of(key.encode()) for key in given] == [1, 2, 3, NO_KEY, None, None, None]
    assert [keys.is_admin(key.encode()) for key in given] == [False] * 3 + [True] + [False] * 3


def test_a_key_that_is_given_twice_is_one() -> None:
    assert ApiKeys.of(load_settings({"api_key": ["a", " a ", "b"]})).number_of(b"b") == 2


def test_without_an_admin_s_key_nobody_is_admin() -> None:
    keys = ApiKeys.of(load_settings({"api_key": ["a"]}))
    assert not keys.is_admin(b"a")
    assert not keys.is_admin(b"")


def test_what_an_api_process_is_told_holds_no_key(tmp_path: Path) -> None:
    settings = all_keys(tmp_path)
    config = ApiConfig(
        settings=settings.for_api_process(),
        keys=ApiKeys.of(settings),
        models_file="",
        socket_fd=0,
        metrics_folder="",
    )
    sent = msgspec.json.encode(config)
    for key in (*KEYS, "third-5512", ADMIN):
        assert key.encode() not in sent
    told = msgspec.json.decode(sent, type=ApiConfig)
    assert told.keys == config.keys
    assert Settings(**told.settings).api_key == []


def test_child_processes_inherit_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "ADMIN_API_KEY", "SSL_KEYFILE_PASSWORD"):
        monkeypatch.setenv(f"EMBEDWAY_{name}", "s3cret")
    settings = load_settings({})
    forget_secrets()
    assert "s3cret" not in os.environ.values()
    assert settings.api_key == [SecretStr("s3cret")]


@pytest.mark.parametrize("variable", ["", " ", "a,,b"])
def test_an_empty_variable_does_not_open_the_server(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv("EMBEDWAY_API_KEY", variable)
    with pytest.raises(InvalidSetting, match=r"--api-key: a key is empty$"):
        load_settings({})


def test_a_user_s_key_cannot_be_the_admin_s() -> None:
    with pytest.raises(InvalidSetting, match="--admin-api-key") as caught:
        ApiKeys.of(load_settings({"api_key": ["s3cret"], "admin_api_key": "s3cret"}))
    assert "s3cret" not in caught.value.message


@pytest.mark.parametrize("content", [b"", b"# none\n\n", b"s3cret \xff"])
def test_a_file_without_keys_ends_the_start_and_shows_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content)
    with pytest.raises(InvalidSetting, match="--api-key-file") as caught:
        read_key_file(path)
    assert "s3cret" not in caught.value.message


def test_a_file_that_is_not_there_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="No such file"):
        read_key_file(tmp_path / "keys")


def test_fair_share_between_keys_needs_keys() -> None:
    with pytest.raises(InvalidSetting, match="--fair-share: there are no keys"):
        read_keys(load_settings({"fair_share": "keys"}))
    assert len(read_keys(load_settings({"fair_share": "keys", "api_key": ["a"]})).users) == 1
