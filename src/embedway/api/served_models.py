"""The models that requests may name, each with all that it takes to serve it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedway.api.admission import Admission, Limits
from embedway.api.body_forms import BodyRules
from embedway.errors import ModelNotFound, ModelUnavailable
from embedway.model_settings import names_of

if TYPE_CHECKING:
    from embedway.api.adapter_registry import AdapterRegistry
    from embedway.config import Settings
    from embedway.engine.client import EngineClient
    from embedway.inputs.sequences import SequenceMaker
    from embedway.media.reader import MediaReader
    from embedway.model_spec import ModelSpec
    from embedway.observability.metrics import Metrics


@dataclass(slots=True, eq=False)
class ServedModel:
    """One model. What is given is not closed here."""

    settings: Settings
    """The model's own, with the server's among them"""
    names: tuple[str, ...]
    """The first is the one that the server uses for itself."""
    sequences: SequenceMaker
    engine: EngineClient
    adapters: AdapterRegistry
    admission: Admission
    media: MediaReader | None = None
    """None: the model reads text only"""
    number: int = 0
    """`supervisor_words.ModelConfig`'s"""
    first_engine: int = 0
    """The number of its first engine"""
    failure: str | None = None
    """Why it is not served any more; None: it is"""

    @classmethod
    def of(
        cls,
        settings: Settings,
        sequences: SequenceMaker,
        *,
        engine: EngineClient,
        adapters: AdapterRegistry,
        metrics: Metrics,
        media: MediaReader | None = None,
        number: int = 0,
        first_engine: int = 0,
    ) -> ServedModel:
        admission = Admission(Limits.of(settings), engine.tokens_per_second, metrics.refused)
        names = names_of(settings)
        return cls(settings, names, sequences, engine, adapters, admission, media, number, first_engine)

    @property
    def spec(self) -> ModelSpec:
        return self.sequences.spec

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def is_idle(self) -> bool:
        """Whether no request holds a place."""
        return not (self.admission.interactive.requests or self.admission.bulk.requests)

    @property
    def status(self) -> str:
        if self.failure is not None:
            return "unavailable"
        return "ready" if self.engine.is_ready else "not ready"

    def check_available(self) -> None:
        """Raise ModelUnavailable where it is not served any more."""
        if self.failure is not None:
            raise ModelUnavailable(name=self.name, problem=self.failure)

    def name_with(self, adapter: str) -> str:
        """The name by which requests ask for an adapter: of the first served name that does not make it ambiguous."""
        names = [f"{base}:{adapter}" for base in self.names]
        return next((name for name in names if adapter_in(name, self.names) == adapter), names[0])


class ServedModels:
    """All of them, in the order in which they came. Belongs to one event loop; there is always one."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self.replace(models)

    def replace(self, models: Sequence[ServedModel]) -> None:
        """From now on these are served."""
        self._models = tuple(models)
        self._by_name = {name: model for model in models for name in model.names}
        self.rules = BodyRules.of([model.sequences for model in models], models[0].settings)
        """What the checks of bodies need to know, whichever model they name"""

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def find(self, name: str) -> tuple[ServedModel, str | None]:
        """The model that `name` asks for and, as in BASE:ADAPTER, the adapter; None for the model itself.

        A served name is taken whole, whatever colons it has. Raises ModelNotFound.
        """
        model = self._by_name.get(name)
        if model is not None:
            return model, None
        adapter = adapter_in(name, self._by_name)
        if adapter is None:
            raise ModelNotFound(param="model", name=name, served=", ".join(self._by_name))
        return self._by_name[name[: -len(adapter) - 1]], adapter

    def named(self, name: str | None) -> ServedModel:
        """The model that `name` asks for, with an adapter or without; the first for None. Raises ModelNotFound."""
        return self._models[0] if name is None else self.find(name)[0]


def adapter_in(name: str, served: Iterable[str]) -> str | None:
    """What follows the longest of the served names in BASE:ADAPTER; None where that is no such name."""
    if name in served:
        return None
    bases = [base for base in served if name.startswith(f"{base}:") and len(name) > len(base) + 1]
    return name[len(max(bases, key=len)) + 1 :] if bases else None
