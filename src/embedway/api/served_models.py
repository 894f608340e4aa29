"""Which names requests may give in `model`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from embedway.config import Settings
from embedway.errors import ModelNotFound
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

    def adapter_in(self, name: str) -> str | None:
        """The adapter that `name` asks for, as in BASE:ADAPTER; None for the model itself.

        A served name is taken whole, whatever colons it has. Raises ModelNotFound.
        """
        if name in self.names:
            return None
        bases = [base for base in self.names if name.startswith(f"{base}:") and len(name) > len(base) + 1]
        if bases:
            return name[len(max(bases, key=len)) + 1 :]
        raise ModelNotFound(param="model", name=name, served=", ".join(self.names))

    def name_with(self, adapter: str) -> str:
        """The name by which requests ask for an adapter: of the first served name that does not make it ambiguous."""
        names = [f"{base}:{adapter}" for base in self.names]
        return next((name for name in names if self.adapter_in(name) == adapter), names[0])


def _own_names(spec: ModelSpec) -> list[str]:
    """The name as the operator gave it; for a folder its last part, too."""
    folder = Path(spec.name)
    return [spec.name, str(folder), folder.name] if folder.is_dir() and folder.name else [spec.name]
