"""Every setting once: name, type, default, help. Flags, `EMBEDWAY_*` variables and the config file all come from here.

Precedence: flag, then environment variable, then config file, then default. Nothing else reads EMBEDWAY_* variables;
`embedway bench`, which is another program's client, has one of its own for its key.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from embedway.errors import InvalidSetting

ENVIRONMENT_PREFIX = "EMBEDWAY_"
DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"

Truncate: TypeAlias = Literal["none", "end", "start"]
Dtype: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
PoolingMode: TypeAlias = Literal["cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]
LogFormat: TypeAlias = Literal["pretty", "json"]
FairShare: TypeAlias = Literal["requests", "keys"]


MODEL_SETTINGS = (
    *("model_path", "served_model_name", "alias", "revision", "dtype", "device", "pooling", "max_length", "matryoshka"),
    *("trust_remote_code", "chat_template", "lora_paths", "lora_root", "max_loaded_loras", "max_lora_rank", "truncate"),
    *("max_queued_tokens", "max_queued_requests", "replicas", "threads", "target_batch_ms", "max_batch_tokens"),
    "cache_mb",
)
"""What each of several models may have of its own; all else is the server's"""
KEY_SETTINGS = {"api_key", "api_key_file", "admin_api_key"}
"""What `api_keys.ApiKeys` is made of: API processes do not get these"""


def setting(default: Any, group: str, text: str, *, flags: tuple[str, ...] = (), **limits: Any) -> Any:
    """Declare one setting. `flags` are further names of its flag; the first is the field's own name."""
    extra: dict[str, Any] = {"group": group, "flags": list(flags)}
    kind: dict[str, Any] = {"default_factory": list} if default == [] else {"default": default}
    return Field(description=text, json_schema_extra=extra, **kind, **limits)


MODEL, ADAPTERS, MEDIA = "Model", "LoRA adapters", "Images and videos"
SERVER, REQUESTS, LOAD, ENGINE, LOGS = "Server", "Requests", "Under load", "Engine", "Logs and traces"
BATCHES, CLUSTER = "Batches", "On Ray"


class LoraPath(BaseModel):
    """An adapter to be loaded at the start, with SGLang's names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lora_name: str = Field(min_length=1)
    lora_path: str = Field(min_length=1)
    """A folder or a Hub id"""
    pinned: bool = False


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
        [],
        MODEL,
        "Further name for the model, such as text-embedding-3-small, or NAME=MODEL for one of several models; several "
        "may be given.",
    )
    models: list[dict[str, Any]] = setting(
        [],
        MODEL,
        "Several models in the place of one: each an id, a folder, or its settings as JSON with 'model_path' among "
        "them; several may be given.",
    )
    model_root: list[Path] = setting([], MODEL, "Folder from which /load_model may load models; several may be given.")
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

    lora_paths: list[LoraPath] = setting(
        [],
        ADAPTERS,
        'LoRA adapter to load at the start: NAME=PATH, PATH or {"lora_name", "lora_path", "pinned"} as JSON, where '
        "PATH is a folder or a Hugging Face id; several may be given.",
    )
    lora_root: list[Path] = setting(
        [], ADAPTERS, "Folder from which requests may load adapters by 'lora_path'; several may be given."
    )
    max_loaded_loras: int | None = setting(
        None, ADAPTERS, "Most adapters in memory; the one unused for longest makes room, and comes back on use.", ge=1
    )
    max_lora_rank: int | None = setting(None, ADAPTERS, "Largest rank that an adapter may have.", ge=1)
    enable_lora: bool = setting(True, ADAPTERS, "Accepted for SGLang's command lines: adapters are always possible.")
    max_loras_per_batch: int | None = setting(
        None, ADAPTERS, "Accepted for SGLang's command lines: a batch may mix any number of adapters.", ge=1
    )

    chat_template: str | None = setting(
        None, MEDIA, "A vision-language model's prompt: a known name, such as gme-qwen2-vl, or a file of Jinja."
    )
    allowed_media_domains: list[str] = setting(
        [],
        MEDIA,
        "Host from which images and videos may be fetched: a name, an address or *.NAME, perhaps with :PORT; several "
        "may be given. One that is named may be private; none other is asked. By default all public ones are.",
    )
    no_remote_media: bool = setting(False, MEDIA, "Fetch no images and videos from the network.", flags=())
    allowed_local_media_path: list[Path] = setting(
        [], MEDIA, "Folder whose images and videos requests may name by path; several may be given. By default none."
    )
    max_media_mb: int = setting(
        64, MEDIA, "Largest image or video file, in MiB.", flags=("--media-url-max-file-size-mb",), ge=1, le=4096
    )
    max_image_pixels: int = setting(64_000_000, MEDIA, "Most pixels of an image, or of a video's frame.", ge=1)
    max_video_seconds: float = setting(3600.0, MEDIA, "Longest video.", gt=0)
    media_timeout: float = setting(10.0, MEDIA, "Seconds that fetching an item may take, and decoding it.", gt=0)
    video_fps: float | None = setting(
        None, MEDIA, "Frames a second that are read of a video. By default what the model declares.", gt=0
    )
    video_max_frames: int | None = setting(
        None, MEDIA, "Most frames that are read of a video. By default what the model declares.", ge=1
    )
    media_workers: int = setting(
        0, MEDIA, "Processes that decode images and videos, of each API process; 0 is one a core.", ge=0, le=64
    )
    media_memory_mb: int = setting(
        1024,
        MEDIA,
        "Decoded images and videos of requests in each API process, in MiB; further requests wait.",
        ge=16,
    )
    media_cache_mb: int = setting(64, MEDIA, "Decoded images and videos kept in each API process, in MiB.", ge=0)

    host: str = setting("127.0.0.1", SERVER, "Address to listen on.", min_length=1)
    port: int = setting(30000, SERVER, "Port to listen on; 0 takes a free one.", ge=0, le=65535)
    api_key: list[SecretStr] = setting(
        [], SERVER, "Key that requests must send as a bearer token; several may be given. By default none is needed."
    )
    api_key_file: Path | None = setting(
        None, SERVER, "File with further such keys, one a line; # begins a comment. Not seen in a process list."
    )
    admin_api_key: SecretStr | None = setting(
        None, SERVER, "Key of the routes that change the server, as a bearer token. By default these routes are closed."
    )
    cors_allow_origin: list[str] = setting(
        [], SERVER, "Web origin whose pages may call the server; several may be given. By default none may."
    )
    allowed_hosts: list[str] = setting(
        [],
        SERVER,
        "Name or address by which clients may call the server, or *.NAME; several may be given, * is any. By default "
        "the loopback's where only that is listened on, and any elsewhere.",
    )
    playground: bool = setting(True, SERVER, "Serve the playground at /, a page that tries the model.")
    ssl_certfile: Path | None = setting(
        None, SERVER, "Certificate, and those between it and its root, as PEM: the server then speaks HTTPS only."
    )
    ssl_keyfile: Path | None = setting(None, SERVER, "The certificate's key, as PEM. By default in --ssl-certfile.")
    ssl_keyfile_password: SecretStr | None = setting(None, SERVER, "Password of the key.")
    ssl_ca_certs: Path | None = setting(
        None, SERVER, "Certificates as PEM, one of which must have signed a client's, which is then asked for."
    )
    api_workers: int = setting(
        1, SERVER, "Processes for HTTP and tokenizing.", flags=("--tokenizer-worker-num",), ge=1, le=64
    )
    max_connections: int = setting(
        4096, SERVER, "Most connections of each API process; further ones get a 503.", ge=1, le=1_000_000
    )
    receive_timeout: float = setting(
        30.0,
        SERVER,
        "Seconds in which a TLS handshake must end, a request's headers be there, and its body go on.",
        gt=0,
    )
    send_timeout: float = setting(60.0, SERVER, "Seconds after which a client must have read of its answer.", gt=0)
    keep_alive_timeout: float = setting(
        75.0, SERVER, "Seconds for which a connection is kept without a request. Clients should close first.", gt=0
    )
    drain_timeout: float = setting(
        30.0, SERVER, "Seconds that accepted requests have to finish after SIGTERM or Ctrl-C.", ge=0
    )
    drain_delay: float = setting(
        1.0,
        SERVER,
        "The first seconds of those, in which /readyz is red and new requests get a polite 503; then the port closes.",
        ge=0,
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
    body_memory_mb: int | None = setting(
        None,
        REQUESTS,
        "Bodies of requests in progress in each API process, in MiB; further large ones are refused. By default four "
        "times --max-body-mb.",
        ge=1,
    )

    max_queued_tokens: int | None = setting(
        None,
        LOAD,
        "Most tokens of requests that wait for their answers; further ones are refused. By default a minute's work.",
        ge=1,
    )
    max_queued_requests: int | None = setting(
        None, LOAD, "Most requests that wait for their answers; further ones are refused. By default any number.", ge=1
    )
    fair_share: FairShare = setting(
        "requests",
        LOAD,
        "Between whom the engine's time is shared: requests, or API keys, each of which then has an equal part of it "
        "while several have work, and priorities within that.",
    )
    request_timeout: float | None = setting(
        None, LOAD, "Seconds in which a request must be answered. By default as long as it takes.", gt=0, le=10**6
    )
    default_priority_value: int = setting(0, LOAD, "Priority of requests that give none.", ge=-(2**63), le=2**63 - 1)
    schedule_low_priority_values_first: bool = setting(
        False, LOAD, "The smaller a request's 'priority', the earlier it runs."
    )
    enable_priority_scheduling: bool = setting(
        True, LOAD, "Accepted for SGLang's command lines: priorities always count."
    )

    data_dir: Path | None = setting(
        None, BATCHES, "Folder for files and batches, which opens their routes. By default there are none."
    )
    max_batch_file_mb: int = setting(200, BATCHES, "Largest file that may be uploaded, in MiB.", ge=1, le=2**20)
    max_batch_requests: int = setting(50_000, BATCHES, "Most requests in a batch.", ge=1)
    max_batch_inputs: int = setting(
        50_000,
        BATCHES,
        "Most items to embed in a batch, of all its requests: how large its output can be follows from that.",
        ge=1,
    )
    max_stored_mb: int = setting(
        10_240,
        BATCHES,
        "Most that uploaded files and those that batches wrote may take before uploads are refused, in MiB.",
        ge=1,
    )

    replicas: int = setting(1, ENGINE, "Engine processes, each with the model.", ge=1, le=64)
    threads: int = setting(0, ENGINE, "CPU threads of each engine; 0 shares the cores among the replicas.", ge=0)
    target_batch_ms: float | None = setting(
        None,
        ENGINE,
        "Milliseconds that a batch may take, by prediction; on a GPU half while short requests are about, on a CPU up "
        "to four times as long where only these are. By default 40 on a CPU, 50 on CUDA.",
        gt=0,
    )
    watchdog_timeout: float = setting(
        60.0,
        ENGINE,
        "Seconds without progress, of an engine beyond ten times a batch's predicted time, after which an engine or an "
        "API process is killed and replaced; 0 never does.",
        ge=0,
    )
    startup_timeout: float = setting(
        600.0, ENGINE, "Seconds that an engine may take to load its model before it is killed; 0 is any number.", ge=0
    )
    max_batch_tokens: int = setting(16384, ENGINE, "Most tokens the model reads at once: bounds its memory.", ge=1)

    cache_mb: int = setting(
        64,
        ENGINE,
        "Vectors kept by each engine, in MiB, so that equal items are computed once; 0 computes every item.",
        ge=0,
        le=2**20,
    )

    ray: bool = setting(False, CLUSTER, "Serve on a Ray cluster, each model in replicas of its own.")
    ray_address: str | None = setting(
        None, CLUSTER, "The cluster's address, or auto. By default a cluster of this machine alone is started."
    )
    ray_replicas: str = setting(
        "1",
        CLUSTER,
        "Replicas of each model: a number, or MIN-MAX to follow the load.",
        pattern=r"^[1-9]\d*(-[1-9]\d*)?$",
    )
    ray_cpus: float = setting(1.0, CLUSTER, "CPUs of a replica, and threads of its model.", gt=0)

    log_level: LogLevel = setting("info", LOGS, "Least severe record to log.")
    log_format: LogFormat = setting("pretty", LOGS, "Log lines for people, or as JSON.")
    log_requests: bool = setting(
        False, LOGS, "Log a line of JSON for each request: its id, route, model, sizes, status and times; no texts."
    )
    log_request_texts: int = setting(
        0, LOGS, "Characters of each request's texts to log with it (--log-requests). By default none.", ge=0
    )
    otlp_endpoint: str | None = setting(
        None,
        LOGS,
        "Base URL of an OpenTelemetry collector that gets traces over HTTP, such as http://localhost:4318. By default "
        "OTEL_EXPORTER_OTLP_ENDPOINT's, and none without it.",
        pattern=r"^https?://[^@\s]+$",
    )

    @field_validator(
        "served_model_name",
        "alias",
        "cors_allow_origin",
        "allowed_hosts",
        "lora_root",
        "model_root",
        "allowed_media_domains",
        "allowed_local_media_path",
        mode="before",
    )
    @classmethod
    def _split_commas(cls, value: object) -> object:
        """A list may come as one string with commas, as environment variables do."""
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("api_key", mode="before")
    @classmethod
    def _split_keys(cls, value: object) -> object:
        """An empty variable is an empty key, and refused: a secret that is missing must not open the server."""
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    @field_validator("lora_paths", mode="before")
    @classmethod
    def _read_lora_paths(cls, value: object) -> object:
        """One or several, each in any of its forms; an environment variable has commas between them, or JSON."""
        if not isinstance(value, str):
            return [_read_lora_path(one) for one in value] if isinstance(value, list) else value
        if value.lstrip().startswith(("[", "{")):
            read = _read_json(value)
            return [_read_lora_path(one) for one in (read if isinstance(read, list) else [read])]
        return [_read_lora_path(part.strip()) for part in value.split(",") if part.strip()]

    @field_validator("models", mode="before")
    @classmethod
    def _read_models(cls, value: object) -> object:
        """One or several, each a name or an object; an environment variable has commas between names, or JSON."""
        if isinstance(value, str):
            is_json = value.lstrip().startswith(("[", "{"))
            value = _read_json(value) if is_json else [part.strip() for part in value.split(",") if part.strip()]
        return [_read_model(one) for one in (value if isinstance(value, list) else [value])]

    @field_validator("lora_paths")
    @classmethod
    def _each_name_once(cls, paths: list[LoraPath]) -> list[LoraPath]:
        names = [path.lora_name for path in paths]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two adapters have the name {twice!r}")
        return paths

    @field_validator("served_model_name", "alias")
    @classmethod
    def _no_empty_names(cls, names: list[str]) -> list[str]:
        if any(not name.strip() for name in names):
            raise ValueError("a name is empty")
        return names

    @field_validator("log_request_texts")
    @classmethod
    def _with_requests_only(cls, characters: int, info: ValidationInfo) -> int:
        if characters and not info.data.get("log_requests"):
            raise ValueError("is of no use without --log-requests")
        return characters

    @field_validator("api_key", "admin_api_key")
    @classmethod
    def _no_empty_keys(cls, given: list[SecretStr] | SecretStr | None) -> list[SecretStr] | SecretStr | None:
        keys = given if isinstance(given, list) else [] if given is None else [given]
        if any(not key.get_secret_value().strip() for key in keys):
            raise ValueError("a key is empty")
        return given

    def for_api_process(self) -> dict[str, Any]:
        """All values but the keys (`api_keys.ApiKeys` has their digests) as JSON can hold them; never for a log.

        The certificate's password is in the clear: each API process opens the certificate's key itself.
        """
        values = self.model_dump(mode="json", exclude=KEY_SETTINGS)
        if self.ssl_keyfile_password is not None:
            values["ssl_keyfile_password"] = self.ssl_keyfile_password.get_secret_value()
        return values


def _read_json(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not valid JSON: {error}") from error


def _read_lora_path(value: object) -> object:
    """NAME=PATH, PATH or a JSON object, as an object."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("{"):
        return _read_json(value)
    name, equals, path = value.partition("=")
    is_named = equals and "/" not in name  # a folder's name may have an equals sign
    return {"lora_name": name, "lora_path": path} if is_named else {"lora_name": value, "lora_path": value}


def _read_model(value: object) -> object:
    """An id, a folder or a JSON object → an object of a model's settings. Raises ValueError for what is none."""
    if isinstance(value, str):
        value = _read_json(value) if value.lstrip().startswith("{") else {"model_path": value}
    if not isinstance(value, dict):
        raise ValueError("must have a name or an object of settings for each model")
    entry = {{"model": "model_path"}.get(name, name): own for name, own in _by_field(value).items()}
    if "model_path" not in entry:
        raise ValueError("has a model without 'model_path'")
    if unknown := next((name for name in entry if name not in MODEL_SETTINGS), None):
        raise ValueError(f"has {unknown!r}, which is no setting of a single model")
    return entry


def _by_field(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Settings by the names of their fields, which may be written with dashes."""
    return {str(key).replace("-", "_"): value for key, value in values.items()}


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
    return checked_settings(_merged(from_file, _from_environment(), flags))


def _merged(*sources: Mapping[str, Any]) -> dict[str, Any]:
    """The last one wins, and says by either of two settings which models there are."""
    merged: dict[str, Any] = {}
    for source in sources:
        if {"models", "model_path"} <= source.keys():
            raise InvalidSetting(setting="--models", problem="is given together with --model-path: give one of them")
        for one, other in (("models", "model_path"), ("model_path", "models")):
            if one in source:
                merged.pop(other, None)
        merged.update(source)
    return merged


def checked_settings(values: Mapping[str, Any]) -> Settings:
    """Raises InvalidSetting naming the setting at fault, by its flag."""
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0]) if problem["loc"] else "settings"
        sentence = problem["msg"].removeprefix("Value error, ")
        shown = "" if name.endswith(("api_key", "password")) else f" (given: {problem['input']!r})"
        raise InvalidSetting(setting=flag_of(name), problem=sentence + shown) from error


def _from_environment() -> dict[str, str]:
    variables = {name: f"{ENVIRONMENT_PREFIX}{name.upper()}" for name in Settings.model_fields}
    return {name: os.environ[variable] for name, variable in variables.items() if variable in os.environ}


def forget_secrets() -> None:
    """Take the secrets out of the environment, which child processes inherit."""
    for name in ("api_key", "admin_api_key", "ssl_keyfile_password"):
        os.environ.pop(f"{ENVIRONMENT_PREFIX}{name.upper()}", None)


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
    known = _by_field(values)
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
