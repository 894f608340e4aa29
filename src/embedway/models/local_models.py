"""The models on this machine: those in the Hub cache, and installed data packages. Nothing is loaded or downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embedway.errors import StartupError
from embedway.models.checkpoint import read_spec
from embedway.models.checkpoint_location import (
    CACHED_MODEL,
    DATA_PACKAGES,
    HubRequest,
    Location,
    cache_folder,
    data_package,
    missing_in_snapshot,
    snapshot,
)

if TYPE_CHECKING:
    from embedway.model_spec import ModelSpec


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model that needs no download."""

    name: str
    """Its Hub id"""
    location: Location
    num_bytes: int
    """Of all its files"""
    spec: ModelSpec | None
    """What it declares; None where it cannot be served"""
    problem: str | None
    """Why it cannot be served"""


def names_here(download_dir: str | Path | None = None) -> list[str]:
    """Hub ids, sorted; `download_dir` takes the place of the Hub cache. A look at the names of folders, no more."""
    cached = [folder.name for folder in cache_folder(download_dir).glob(f"{CACHED_MODEL}*") if folder.is_dir()]
    names = {name.removeprefix(CACHED_MODEL).replace("--", "/") for name in cached}
    return sorted(names | {name for name in DATA_PACKAGES if data_package(name)})


def local_models(download_dir: str | Path | None = None) -> list[LocalModel]:
    """Sorted by name. A repository of which nothing but notes is in the cache is none."""
    found: list[LocalModel] = []
    for name in names_here(download_dir):
        described = [_describe(name, location) for location in _places(name, download_dir)]
        found += [model for model in described if model.spec][:1] or described[:1]
    return found


def _places(name: str, download_dir: str | Path | None) -> list[Location]:
    """In the order in which `locate` looks at them."""
    cache = None if download_dir is None else str(download_dir)
    folder = snapshot(HubRequest(name=name, repo=name, revision=None, cache=cache, token=None, patterns=()))
    cached = None if folder is None else Location(folder, folder.name, "hub_cache")
    return [place for place in (cached, data_package(name)) if place is not None]


def _describe(name: str, location: Location) -> LocalModel:
    num_bytes = sum(path.stat().st_size for path in location.folder.rglob("*") if path.is_file())
    spec, problem = None, None
    try:
        if location.source == "hub_cache":
            problem = missing_in_snapshot(location.folder)
        if problem is None:
            spec = read_spec(location, name=name)
    except StartupError as error:
        problem = error.message
    return LocalModel(name, location, num_bytes, spec, problem)
