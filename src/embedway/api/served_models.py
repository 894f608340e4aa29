"""Which names requests may give in `model`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from embedway.config import Settings
from embedway.errors import AdaptersNotSupported, ModelNotFound
from embedway.model_spec import ModelSpec


@dataclass(frozen=True, slots=True)
class ServedModel:
    spec: ModelSpec
    names: tuple[str, ...]
    """The first is the one that the server uses for itself."""

    @classmethod
    def of(cls, spec: ModelSpec, settings: Settings) -> ServedModel:
        own = settings.served_model_name or _own_names(spec)
        return cls(spec, tuple(dict.fromkeys([*own, *settings.alias])))

    def check(self, name: str) -> None:
        """Raise ModelNotFound unless `name` is served, AdaptersNotSupported where only its `:adapter` is not."""
        if name in self.names:
            return
        base, colon, adapter = name.partition(":")
        if colon and base in self.names:
            raise AdaptersNotSupported(param="model", adapter=adapter)
        raise ModelNotFound(param="model", name=name, served=", ".join(self.names))


def _own_names(spec: ModelSpec) -> list[str]:
    """The name as the operator gave it; for a folder its last part, too."""
    folder = Path(spec.name)
    return [spec.name, str(folder), folder.name] if folder.is_dir() and folder.name else [spec.name]
