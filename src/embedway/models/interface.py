"""The seam between the engine and a model: a packed batch goes in, one float32 vector a sequence comes out."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from embedway.models.adapter_checkpoint import AdapterWeights
    from embedway.visual import Visual

PreparedAdapter: TypeAlias = object
"""An adapter in the form that one model computes with. Only that model looks into it; it is freed with its last
reference, so who holds one in a batch may use it, whatever is unloaded meanwhile."""


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Sequences laid end to end, without padding.

    Sequence i is `token_ids[cu_seqlens[i]:cu_seqlens[i + 1]]`; every sequence has at least one token.
    """

    token_ids: npt.NDArray[np.int32]
    """int32 [total]"""
    cu_seqlens: npt.NDArray[np.int32]
    """int32 [n + 1], starting at 0 and ending at total"""
    pool_starts: npt.NDArray[np.int32]
    """int32 [n]: how many leading tokens of each sequence the pooling leaves out (a prompt's); nearly always 0"""
    adapters: tuple[PreparedAdapter, ...] = ()
    """Those that sequences of this batch run with"""
    adapter_indices: npt.NDArray[np.int32] | None = None
    """int32 [n]: each sequence's place in `adapters`, -1 for the base model; None where `adapters` is empty"""
    visuals: Mapping[int, tuple[Visual, ...]] = field(default_factory=dict)
    """Sequence → its images and videos, in the order in which their positions (`Visual.num_tokens` each) stand in it.
    Those positions hold the model's placeholder token, or VISUAL_TOKEN where it has none. Only a model whose
    `ModelSpec.vision` is there gets any."""

    @property
    def num_sequences(self) -> int:
        return len(self.cu_seqlens) - 1

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)


class EmbeddingModel(Protocol):
    """A loaded model. `embed` has one caller at a time; `make_adapter` may be called beside it, by another thread."""

    dtype: str
    """The weights' type: `float32`, `bfloat16` or `float16`."""
    device: str
    dimension: int
    facts: dict[str, str]
    """What else the operator may want to know of it, in words: name → value, shown in the banner and /server_info."""

    def embed(self, batch: PackedBatch) -> npt.NDArray[np.float32]:
        """Return float32 [n, dimension]: pooled, through the Dense modules, not normalised."""
        ...

    def make_adapter(self, weights: AdapterWeights) -> PreparedAdapter:
        """Make a LoRA adapter ready for batches of this model.

        Raises AdapterRefused where it changes what this model does not have, or not in that shape. Changes nothing.
        """
        ...


class LaunchedBatch(Protocol):
    """A batch on its way through a model."""

    def is_done(self) -> bool:
        """Whether `vectors` would return at once."""
        ...

    def vectors(self) -> npt.NDArray[np.float32]:
        """Wait for what `embed` gives. Raises what `embed` would, unless `launch` has."""
        ...


@runtime_checkable
class LaunchingModel(EmbeddingModel, Protocol):
    """A model whose device works on its own, so that the host can prepare the next batch meanwhile."""

    def launch(self, batch: PackedBatch) -> LaunchedBatch:
        """Begin a batch behind those that are under way, as a rule without waiting for them."""
        ...


@dataclass(frozen=True, slots=True)
class Preemption:
    """How a batch makes way for more urgent ones on the same model, between two of its layers."""

    at: npt.NDArray[np.int64]
    """int64 [1]: nanoseconds of the monotonic clock, from which on `run` is to be called. Any thread may change it."""
    run: Callable[[], None]
    """Has the model compute other batches, which make way for nobody. Raises nothing."""

    def make_way(self) -> None:
        """For models whose layers are Python's."""
        if time.monotonic_ns() >= self.at[0]:
            self.run()


@runtime_checkable
class PreemptibleModel(EmbeddingModel, Protocol):
    """A model whose caller computes its batches, and which can leave one between two layers."""

    def allow_preemption(self, preemption: Preemption) -> None:
        """Have batches make way from now on. `embed` is then called within `embed`, by the same thread."""
        ...
