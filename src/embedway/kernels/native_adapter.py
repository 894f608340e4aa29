"""What a LoRA adapter changes in an encoder of BERT's kind, in the library's terms, and packed for that encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedway.kernels.library import ErrorText, LayerAdapterStruct, LowRankStruct, load_library

if TYPE_CHECKING:
    import numpy.typing as npt

    from embedway.kernels.native import EncoderShape

    Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LowRank:
    """The change of one linear layer: x · downᵀ · upᵀ is added to x · weightᵀ (arXiv:2106.09685)."""

    down: Floats
    """[rank, in]: LoRA's A"""
    up: Floats
    """[out, rank]: LoRA's B, with the scale in it"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerAdapter:
    """The changes of one layer; None where a linear layer stays as it is."""

    query: LowRank | None = None
    key: LowRank | None = None
    value: LowRank | None = None
    attention: LowRank | None = None
    """The projection after the heads"""
    up: LowRank | None = None
    down: LowRank | None = None


class NativeAdapter:
    """An adapter packed for one encoder's shape, GEMM type and instruction set; `NativeEncoder.make_adapter` makes it.

    It never changes, and needs no encoder to live. Its memory is freed with its last reference.
    """

    def __init__(self, encoder: int, layers: Sequence[LayerAdapter]) -> None:
        """`encoder` is the library's handle; the layers must fit it (`check_layers`). Raises MemoryError."""
        library = load_library()
        if library is None:
            raise ValueError("there is no native library")
        self._library, error = library, ErrorText()
        kept: list[Floats] = []  # until they are packed
        structs = (LayerAdapterStruct * len(layers))(*(layer_struct(layer, kept) for layer in layers))
        self.handle: int | None = library.embedway_adapter_new(encoder, structs, error)
        if not self.handle:
            raise error.exception()

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self._library.embedway_adapter_free(self.handle)


def check_layers(layers: Sequence[LayerAdapter], shape: EncoderShape, num_layers: int) -> None:
    """Raise ValueError unless there are as many layers, and every change is of its linear layer's shape."""
    if len(layers) != num_layers:
        raise ValueError(f"the adapter has {len(layers)} layers, but the encoder {num_layers}")
    hidden, intermediate = shape.hidden_size, shape.intermediate_size
    sizes = {"up": (intermediate, hidden), "down": (hidden, intermediate)}
    for i, layer in enumerate(layers):
        for name, change in changes_of(layer):
            if change is None:
                continue
            out_features, in_features = sizes.get(name, (hidden, hidden))
            rank = len(change.down)
            if rank < 1 or change.down.shape != (rank, in_features) or change.up.shape != (out_features, rank):
                raise ValueError(
                    f"the change of {name} in layer {i} has the shapes {change.down.shape} and {change.up.shape}, "
                    f"but they must be (rank, {in_features}) and ({out_features}, rank)"
                )


def changes_of(layer: LayerAdapter) -> Iterator[tuple[str, LowRank | None]]:
    """Each linear layer's name and change, in the order of `embedway_layer_adapter`."""
    yield from (("query", layer.query), ("key", layer.key), ("value", layer.value))
    yield from (("attention", layer.attention), ("up", layer.up), ("down", layer.down))


def layer_struct(layer: LayerAdapter, kept: list[Floats]) -> LayerAdapterStruct:
    """The layer for the library, which reads arrays that are put into `kept`."""
    structs: list[LowRankStruct] = []
    for _, change in changes_of(layer):
        if change is None:
            structs.append(LowRankStruct())
            continue
        down, up = (np.ascontiguousarray(array, np.float32) for array in (change.down, change.up))
        kept += [down, up]
        structs.append(LowRankStruct(down.ctypes.data, up.ctypes.data, len(down)))
    return LayerAdapterStruct(*structs)
