from __future__ import annotations

from pathlib import Path

import pytest

from embedway.config import load_settings
from embedway.errors import InvalidSetting


def file_with(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "max-items: 3\napi_key: [one, two]\nmatryoshka: true\n"),
        ("a.toml", 'max_items = 3\napi-key = ["one", "two"]\nmatryoshka = true\n'),
    ],
)
def test_a_file_of_either_kind_gives_settings(tmp_path: Path, name: str, text: str) -> None:
    settings = load_settings({}, file_with(tmp_path, name, text))
    assert (settings.max_items, settings.matryoshka) == (3, True)
    assert [key.get_secret_value() for key in settings.api_key] == ["one", "two"]


def test_a_variable_may_hold_a_number_a_switch_or_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PORT": "8000", "MATRYOSHKA": "true", "ALIAS": "a, b", "DRAIN_TIMEOUT": "0.5"}.items():
        monkeypatch.setenv(f"EMBEDWAY_{name}", value)
    settings = load_settings({})
    assert (settings.port, settings.matryoshka, settings.drain_timeout) == (8000, True, 0.5)
    assert settings.alias == ["a", "b"]


def test_a_flag_wins_over_a_variable_and_that_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file_with(tmp_path, "a.yml", "max_items: 1\nport: 1\nmax_body_mb: 1\n")
    monkeypatch.setenv("EMBEDWAY_MAX_ITEMS", "2")
    monkeypatch.setenv("EMBEDWAY_PORT", "2")
    settings = load_settings({"max_items": "3"}, path)
    assert (settings.max_items, settings.port, settings.max_body_mb) == (3, 2, 1)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.yaml", "no_such: 1\n", "no_such"),
        ("a.yaml", "port: many\n", "--port"),
        ("a.yaml", "- port\n", "by their names"),
        ("a.yaml", "port: [\n", "cannot be read"),
        ("a.toml", "port =\n", "cannot be read"),
        ("a.json", "{}", ".yaml"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_fault(tmp_path: Path, name: str, text: str, says: str) -> None:
    with pytest.raises(InvalidSetting, match=says):
        load_settings({}, file_with(tmp_path, name, text))


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert load_settings({}, file_with(tmp_path, "a.yaml", "")) == load_settings({})


def test_a_key_is_not_shown_in_an_error() -> None:
    with pytest.raises(InvalidSetting) as caught:
        load_settings({"api_key": ["s3cret", ""]})
    assert "s3cret" not in caught.value.message


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a=/x"], [("a", "/x", False)]),
        (["/runs/lr=1e-4"], [("/runs/lr=1e-4", "/runs/lr=1e-4", False)]),
        (['{"lora_name": "a", "lora_path": "/x", "pinned": true}'], [("a", "/x", True)]),
        ("a=/x, org/b", [("a", "/x", False), ("org/b", "org/b", False)]),
        ('["a=/x", {"lora_name": "b", "lora_path": "/y"}]', [("a", "/x", False), ("b", "/y", False)]),
    ],
)
def test_adapters_to_load_are_given_in_any_of_sglang_s_forms(
    given: object, expected: list[tuple[str, str, bool]]
) -> None:
    settings = load_settings({"lora_paths": given})
    assert [(path.lora_name, path.lora_path, path.pinned) for path in settings.lora_paths] == expected


@pytest.mark.parametrize("given", [["a=/x", "a=/y"], ["{"], ["=/x"], ["a="], ['{"lora_name": "a"}'], "[1"])
def test_adapters_that_cannot_be_read_are_refused_by_the_flag_s_name(given: object) -> None:
    with pytest.raises(InvalidSetting, match="--lora-paths"):
        load_settings({"lora_paths": given})


def test_the_admin_s_key_is_shown_nowhere() -> None:
    settings = load_settings({"admin_api_key": "secret"})
    assert "secret" not in repr(settings) + settings.model_dump_json()
    assert "secret" not in str(settings.for_api_process())
    with pytest.raises(InvalidSetting, match=r"--admin-api-key: a key is empty$"):
        load_settings({"admin_api_key": " "})
