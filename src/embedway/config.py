"""Every setting once: name, type, default, help. Flags, `EMBEDWAY_*` variables and the config file all come from here.

Precedence: flag, then environment variable, then config file, then default. Nothing else reads EMBEDWAY_* variables.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo

from embedway.errors import InvalidSetting

ENVIRONMENT_PREFIX = "EMBEDWAY_"
DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"

Truncate: TypeAlias = Literal["none", "end", "start"]
Dtype: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
PoolingMode: TypeAlias = Literal["cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]


def setting(default: Any, group: str, text: str, *, flags: tuple[str, ...] = (), **limits: Any) -> Any:
    """Declare one setting. `flags` are further names of its flag; the first is the field's own name."""
    extra: dict[str, Any] = {"group": group, "flags": list(flags)}
    kind: dict[str, Any] = {"default_factory": list} if default == [] else {"default": default}
    return Field(description=text, json_schema_extra=extra, **kind, **limits)


MODEL, SERVER, REQUESTS, ENGINE, LOGS = "Model", "Server", "Requests", "Engine", "Logs"


class Settings(BaseModel):
    """The settings of `embedway serve`. Made by `load_settings`, which raises InvalidSetting."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model_path: str = setting(
        DEFAULT_MODEL, MODEL, "The model: a Hugging Face id or a folder.", flags=("--model",), min_length=1
    )
    served_model_name: list[str] = setting(
        [], MODEL, "Name that requests give in 'model'; several may be given. By default the model's own name."
    )
    alias: list[str] = setting(
        [], MODEL, "Further name for the model, such as text-embedding-3-small; several may be given."
    )
    revision: str | None = setting(None, MODEL, "The model's branch, tag or commit on the Hub.")
    download_dir: Path | None = setting(None, MODEL, "Folder for downloaded models. By default the Hub cache.")
    dtype: Dtype = setting("auto", MODEL, "The type of the weights; auto is the fastest that is exact, measured.")
    device: str = setting(
        "auto", MODEL, "Where the model runs: auto, cpu, cuda or cuda:N.", pattern=r"^(auto|cpu|cuda(:\d+)?)$"
    )
    pooling: PoolingMode | None = setting(
        None, MODEL, "How token vectors become one vector. By default what the model's folder declares."
    )
    max_length: int | None = setting(
        None,
        MODEL,
        "Most tokens an item may have. By default what the model's folder declares.",
        flags=("--context-length",),
        ge=1,
    )
    matryoshka: bool = setting(
        False, MODEL, "Allow 'dimensions' on a model that does not declare Matryoshka vectors.", flags=()
    )
    trust_remote_code: bool = setting(False, MODEL, "Run Python code that comes with the model.")
    is_embedding: bool = setting(True, MODEL, "Accepted for SGLang's command lines: every model here embeds.")

    host: str = setting("127.0.0.1", SERVER, "Address to listen on.", min_length=1)
    port: int = setting(30000, SERVER, "Port to listen on; 0 takes a free one.", ge=0, le=65535)
    api_key: list[SecretStr] = setting(
        [], SERVER, "Key that requests must send as a bearer token; several may be given. By default none is needed."
    )
    cors_allow_origin: list[str] = setting(
        [], SERVER, "Web origin whose pages may call the server; several may be given. By default none may."
    )
    api_workers: int = setting(
        1, SERVER, "Processes for HTTP and tokenizing.", flags=("--tokenizer-worker-num",), ge=1, le=64
    )
    drain_timeout: float = setting(
        30.0, SERVER, "Seconds that accepted requests have to finish after SIGTERM or Ctrl-C.", ge=0
    )

    truncate: Truncate = setting(
        "none",
        REQUESTS,
        "What becomes of an item that is too long, where the request does not say: none refuses it, end cuts its end, "
        "start cuts its start.",
    )
    max_items: int = setting(2048, REQUESTS, "Most items in a request.", ge=1)
    max_request_tokens: int = setting(300_000, REQUESTS, "Most tokens in a request.", ge=1)
    max_body_mb: int = setting(64, REQUESTS, "Largest request body, in MiB.", ge=1, le=2048)

    replicas: int = setting(1, ENGINE, "Engine processes, each with the model.", ge=1, le=64)
    threads: int = setting(0, ENGINE, "CPU threads of each engine; 0 shares the cores among the replicas.", ge=0)
    target_batch_ms: float | None = setting(
        None,
        ENGINE,
        "Milliseconds that a batch may take, by prediction; half while short requests are about. By default 40 on a "
        "CPU, 50 on CUDA.",
        gt=0,
    )
    max_batch_tokens: int = setting(16384, ENGINE, "Most tokens the model reads at once: bounds its memory.", ge=1)

    log_level: LogLevel = setting("info", LOGS, "Least severe record to log.")

    @field_validator("served_model_name", "alias", "api_key", "cors_allow_origin", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        """A list may come as one string with commas, as environment variables do."""
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("served_model_name", "alias")
    @classmethod
    def _no_empty_names(cls, names: list[str]) -> list[str]:
        if any(not name.strip() for name in names):
            raise ValueError("a name is empty")
        return names

    @field_validator("api_key")
    @classmethod
    def _no_empty_keys(cls, keys: list[SecretStr]) -> list[SecretStr]:
        if any(not key.get_secret_value().strip() for key in keys):
            raise ValueError("a key is empty")
        return keys

    def revealed(self) -> dict[str, Any]:
        """All values as JSON can hold them, with the keys in the clear: for a process of our own, never for a log."""
        values = self.model_dump(mode="json")
        return {**values, "api_key": [key.get_secret_value() for key in self.api_key]}


def flag_of(name: str) -> str:
    return "--" + name.replace("_", "-")


def group_of(field: FieldInfo) -> str:
    return _extra(field)["group"]


def flags_of(name: str, field: FieldInfo) -> list[str]:
    """All names of a setting's flag, its own first."""
    return [flag_of(name), *_extra(field)["flags"]]


def load_settings(flags: dict[str, Any], config_file: Path | None = None) -> Settings:
    """Settings from the flags that were given, the environment and a .yaml, .yml or .toml file.

    Raises InvalidSetting naming the setting at fault, by its flag.
    """
    from_file = {} if config_file is None else _read_config_file(config_file)
    try:
        return Settings.model_validate({**from_file, **_from_environment(), **flags})
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0]) if problem["loc"] else "settings"
        sentence = problem["msg"].removeprefix("Value error, ")
        shown = "" if name == "api_key" else f" (given: {problem['input']!r})"
        raise InvalidSetting(setting=flag_of(name), problem=sentence + shown) from error


def _from_environment() -> dict[str, str]:
    variables = {name: f"{ENVIRONMENT_PREFIX}{name.upper()}" for name in Settings.model_fields}
    return {name: os.environ[variable] for name, variable in variables.items() if variable in os.environ}


def _read_config_file(path: Path) -> dict[str, Any]:
    """Keys are the settings' names, with dashes or underscores."""
    read = {".toml": _read_toml, ".yaml": _read_yaml, ".yml": _read_yaml}.get(path.suffix)
    if read is None:
        raise InvalidSetting(setting="--config", problem=f"{path} must end in .yaml, .yml or .toml")
    if not path.is_file():
        raise InvalidSetting(setting="--config", problem=f"there is no file {path}")
    try:
        values = read(path.read_text(encoding="utf-8"))
    except Exception as error:
        raise InvalidSetting(setting="--config", problem=f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise InvalidSetting(setting="--config", problem=f"{path} must hold settings by their names")
    known = {str(key).replace("-", "_"): value for key, value in values.items()}
    for name in known:
        if name not in Settings.model_fields:
            raise InvalidSetting(setting="--config", problem=f"{path} has the unknown setting {name!r}")
    return known


def _read_toml(text: str) -> object:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib  # ty: ignore[import-not-found] - not there where Python has it
    return tomllib.loads(text)


def _read_yaml(text: str) -> object:
    import yaml

    return yaml.safe_load(text) or {}


def _extra(field: FieldInfo) -> dict[str, Any]:
    assert isinstance(field.json_schema_extra, dict), "every setting is declared with `setting`"
    return field.json_schema_extra
