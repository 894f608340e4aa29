"""A model's name → its folder and what that declares, as the server, `embedway check` and the Python API read it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from embedway.models.checkpoint import read_spec
from embedway.models.checkpoint_location import Location, locate

if TYPE_CHECKING:
    from embedway.config import PoolingMode, Settings
    from embedway.model_spec import ModelSpec


class DeclaredModel(NamedTuple):
    location: Location
    spec: ModelSpec


def find_model(
    name: str,
    *,
    revision: str | None,
    download_dir: str | Path | None,
    pooling: PoolingMode | None,
    max_length: int | None,
    chat_template: str | None,
    trust_remote_code: bool,
) -> DeclaredModel:
    """Raises ModelNotAvailable, UnsupportedCheckpoint or InvalidSetting."""
    location = locate(name, revision=revision, download_dir=download_dir, trust_remote_code=trust_remote_code)
    spec = read_spec(
        location,
        name=name,
        pooling=pooling,
        max_length=max_length,
        chat_template=chat_template,
        trust_remote_code=trust_remote_code,
    )
    return DeclaredModel(location, spec)


def model_of(settings: Settings) -> DeclaredModel:
    """The one that the settings name. Raises what `find_model` does."""
    return find_model(
        settings.model_path,
        revision=settings.revision,
        download_dir=settings.download_dir,
        pooling=settings.pooling,
        max_length=settings.max_length,
        chat_template=settings.chat_template,
        trust_remote_code=settings.trust_remote_code,
    )
