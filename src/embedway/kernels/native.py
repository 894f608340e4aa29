"""The native encoder, in numpy: a BERT-family model's whole forward in one call. Never imports torch.

What this machine can run is asked of the library (`gemm_types`), never guessed; without a library it is nothing.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from embedway.kernels.library import (
    PREEMPT,
    BatchStruct,
    EncoderConfigStruct,
    ErrorText,
    LayerStruct,
    load_library,
)
from embedway.kernels.native_adapter import LayerAdapter, NativeAdapter, check_layers

GemmType = Literal["float32", "bfloat16", "float16"]
Activation = Literal["gelu", "gelu_tanh", "relu"]
PoolingMode = Literal["mean", "cls", "max", "lasttoken"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderShape:
    """The sizes of a post-norm encoder of BERT's kind. The head size is hidden_size / num_heads, at most 128."""

    hidden_size: int
    num_heads: int
    intermediate_size: int
    layer_norm_eps: float
    activation: Activation
    first_position: int = 0
    """Row of the position table that a sequence's first token takes (RoBERTa: padding_idx + 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights:
    """One layer, as checkpoints hold it: weights are [out, in], float32 and contiguous."""

    qkv_weight: Floats
    """[3 · hidden, hidden]: query, key, value"""
    qkv_bias: Floats
    attention_weight: Floats
    """[hidden, hidden]: the projection after the heads"""
    attention_bias: Floats
    attention_norm_weight: Floats
    attention_norm_bias: Floats
    up_weight: Floats
    """[intermediate, hidden]"""
    up_bias: Floats
    down_weight: Floats
    """[hidden, intermediate]"""
    down_bias: Floats
    output_norm_weight: Floats
    output_norm_bias: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderWeights:
    """A whole encoder. The tables are read in place and may be memory-mapped; the layers are packed, and free after."""

    word_table: Floats
    """[vocabulary, hidden]"""
    position_table: Floats
    """[positions, hidden]"""
    token_type: Floats | None
    """[hidden]: the row of token type 0; None where the model has no types"""
    norm_weight: Floats
    norm_bias: Floats
    layers: list[LayerWeights]
    relative_bias: Floats | None = None
    """[heads, 2 · reach + 1]: added to the scores of key j for query i at column clip(j - i, -reach, reach) + reach
    (MPNet, in every layer alike)"""


ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
GEMM_TYPES: tuple[GemmType, ...] = get_args(GemmType)
POOLINGS: tuple[PoolingMode, ...] = get_args(PoolingMode)
ALL_TOKENS = len(POOLINGS)
LARGEST_HEAD = 256


class NativeEncoder:
    """An encoder whose weights are packed for this machine's instructions. One caller of a batch at a time.

    `threads` compute a batch together, the caller among them. `instruction_set` is the best of `instruction_sets()`
    where it is None. Raises ValueError for shapes that do not fit together, or what this machine does not offer.
    """

    def __init__(
        self,
        shape: EncoderShape,
        weights: EncoderWeights,
        *,
        gemm_type: GemmType,
        threads: int,
        instruction_set: str | None = None,
    ) -> None:
        library = load_library()
        if library is None:
            raise ValueError("there is no native library")
        check_shapes(shape, weights)
        self.hidden_size = shape.hidden_size
        self._shape, self._num_layers = shape, len(weights.layers)
        self.instruction_set = instruction_set or instruction_sets()[0]
        self._library, self._error = library, ErrorText()
        self._preempt_at: npt.NDArray[np.int64] | None = None
        self._preempt = PREEMPT()
        relative_bias, reach = whole_relative_bias(weights, shape.first_position)
        # the library reads these in place
        self._kept = [
            table if table is None else np.ascontiguousarray(table, np.float32)
            for table in (
                weights.word_table,
                weights.position_table,
                weights.token_type,
                weights.norm_weight,
                weights.norm_bias,
                relative_bias,
            )
        ]
        config = EncoderConfigStruct(
            shape.hidden_size,
            shape.num_heads,
            shape.intermediate_size,
            len(weights.layers),
            ACTIVATIONS.index(shape.activation),
            shape.layer_norm_eps,
            shape.first_position,
            len(weights.word_table),
            len(weights.position_table),
            threads,
            *map(address, self._kept),
            reach,
        )
        self._encoder = library.embedway_encoder_new(
            config, self.instruction_set.encode(), GEMM_TYPES.index(gemm_type), self._error
        )
        if not self._encoder:
            raise self._error.exception()
        for i, layer in enumerate(weights.layers):
            arrays = [np.ascontiguousarray(array, np.float32) for array in layer_arrays(layer)]
            packed = LayerStruct(*map(address, arrays))
            if library.embedway_encoder_set_layer(self._encoder, i, packed, self._error):
                raise self._error.exception()

    def __del__(self) -> None:
        if getattr(self, "_encoder", None):
            self._library.embedway_encoder_free(self._encoder)

    def make_adapter(self, layers: Sequence[LayerAdapter]) -> NativeAdapter:
        """Pack a LoRA adapter, one LayerAdapter a layer, for batches of this encoder, which is only read.

        May be called by another thread while a batch is running. Raises ValueError for a number of layers or shapes
        that do not fit.
        """
        check_layers(layers, self._shape, self._num_layers)
        return NativeAdapter(self._encoder, layers)

    def allow_preemption(self, at: npt.NDArray[np.int64], run: Callable[[], None]) -> None:
        """From now on batches make way for others: several times a layer `run` is called, by the caller of
        `embed`, once the monotonic clock has come to `at`, int64 [1], in nanoseconds, which any thread may change.

        `run` may call `embed` for other batches, which make way for nobody, and raises nothing.
        """
        self._preempt_at, self._preempt = at, PREEMPT(run)

    def embed(
        self,
        token_ids: npt.NDArray[np.int32],
        cu_seqlens: npt.NDArray[np.int32],
        pool_starts: npt.NDArray[np.int32],
        pooling: PoolingMode,
        adapters: Sequence[NativeAdapter] = (),
        adapter_indices: npt.NDArray[np.int32] | None = None,
    ) -> Floats:
        """Return float32 [n, hidden], pooled, not normalised.

        token_ids int32 [total], cu_seqlens int32 [n + 1], pool_starts int32 [n]: leading tokens that are left out;
        where that is all of them, `cls` reads the first one and the others the last. adapter_indices int32 [n]: each
        sequence's place in `adapters`, -1 for the base model; needed where there are adapters. Raises ValueError for a
        sequence that is empty or longer than the position table, for ids outside the vocabulary, for indices outside
        `adapters`, and for adapters of another encoder's shape, GEMM type or instruction set.
        """
        out = np.empty((len(cu_seqlens) - 1, self.hidden_size), np.float32)
        self._run(token_ids, cu_seqlens, pool_starts, POOLINGS.index(pooling), out, adapters, adapter_indices)
        return out

    def hidden_states(
        self,
        token_ids: npt.NDArray[np.int32],
        cu_seqlens: npt.NDArray[np.int32],
        adapters: Sequence[NativeAdapter] = (),
        adapter_indices: npt.NDArray[np.int32] | None = None,
    ) -> Floats:
        """Return float32 [total, hidden]: every token's last state. Takes adapters and raises as `embed` does."""
        out = np.empty((len(token_ids), self.hidden_size), np.float32)
        self._run(token_ids, cu_seqlens, None, ALL_TOKENS, out, adapters, adapter_indices)
        return out

    def _run(
        self,
        token_ids: npt.NDArray[np.int32],
        cu_seqlens: npt.NDArray[np.int32],
        pool_starts: npt.NDArray[np.int32] | None,
        pooling: int,
        out: Floats,
        adapters: Sequence[NativeAdapter],
        adapter_indices: npt.NDArray[np.int32] | None,
    ) -> None:
        ids, ends = (np.ascontiguousarray(array, np.int32) for array in (token_ids, cu_seqlens))
        starts, indices = (
            None if array is None else np.ascontiguousarray(array, np.int32) for array in (pool_starts, adapter_indices)
        )
        count = len(ends) - 1
        if ends[0] != 0 or ends[-1] != len(ids) or (starts is not None and len(starts) != count):
            raise ValueError(
                "cu_seqlens must start at 0 and end at the number of tokens, pool_starts be one a sequence"
            )
        if (indices is None) != (not adapters) or (indices is not None and len(indices) != count):
            raise ValueError("adapter_indices must be one a sequence where there are adapters, and None elsewhere")
        handles = (ctypes.c_void_p * len(adapters))(*(adapter.handle for adapter in adapters))
        batch = BatchStruct(
            *(address(ids), address(ends), address(starts), count, pooling),
            *(len(adapters), ctypes.addressof(handles), address(indices)),
        )
        preemption = (address(self._preempt_at), self._preempt)
        if self._library.embedway_encoder_run(self._encoder, batch, address(out), *preemption, self._error):
            raise self._error.exception()


def instruction_sets() -> tuple[str, ...]:
    """The instruction sets that the library was compiled for and this machine has, best first; empty without one."""
    library = load_library()
    if library is None:
        return ()
    names: list[str] = []
    while name := library.embedway_instruction_set(len(names)):
        names.append(name.decode())
    return tuple(names)


@functools.cache
def gemm_types(instruction_set: str | None = None) -> tuple[GemmType, ...]:
    """The types in which this machine can run an encoder, whatever their speed; empty without a library."""
    library = load_library()
    if library is None:
        return ()
    name = None if instruction_set is None else instruction_set.encode()
    return tuple(kind for i, kind in enumerate(GEMM_TYPES) if library.embedway_offers(name, i))


def check_shapes(shape: EncoderShape, weights: EncoderWeights) -> None:
    """Raise ValueError unless every array has the shape that `shape` and the weights' docstrings say."""
    hidden, intermediate = shape.hidden_size, shape.intermediate_size
    if hidden % shape.num_heads or hidden // shape.num_heads > LARGEST_HEAD:
        raise ValueError(f"{shape.num_heads} heads do not divide a hidden size of {hidden} into heads of at most 256")
    expected = {
        (hidden,): [weights.norm_weight, weights.norm_bias],
        (len(weights.word_table), hidden): [weights.word_table],
        (len(weights.position_table), hidden): [weights.position_table],
    }
    expected[(hidden,)] += [] if weights.token_type is None else [weights.token_type]
    pairs = [(array, wanted) for wanted, arrays in expected.items() for array in arrays]
    layer_shapes = (
        *((3 * hidden, hidden), (3 * hidden,), (hidden, hidden), (hidden,), (hidden,), (hidden,)),
        *((intermediate, hidden), (intermediate,), (hidden, intermediate), (hidden,), (hidden,), (hidden,)),
    )
    for layer in weights.layers:
        pairs += zip(layer_arrays(layer), layer_shapes, strict=True)
    for array, wanted in pairs:
        if array.shape != wanted:
            raise ValueError(f"a weight has the shape {array.shape}, but it must be {wanted}")
    if weights.relative_bias is not None and (
        len(weights.relative_bias) != shape.num_heads or weights.relative_bias.shape[1] % 2 == 0
    ):
        raise ValueError(f"the relative bias has the shape {weights.relative_bias.shape}")


def layer_arrays(layer: LayerWeights) -> tuple[Floats, ...]:
    """In the order of `embedway_layer`."""
    return (
        *(layer.qkv_weight, layer.qkv_bias, layer.attention_weight, layer.attention_bias),
        *(layer.attention_norm_weight, layer.attention_norm_bias),
        *(layer.up_weight, layer.up_bias, layer.down_weight, layer.down_bias),
        *(layer.output_norm_weight, layer.output_norm_bias),
    )


def whole_relative_bias(weights: EncoderWeights, first_position: int) -> tuple[Floats | None, int]:
    """The relative bias for every distance that the position table allows, and the farthest of them."""
    if weights.relative_bias is None:
        return None, 0
    declared = weights.relative_bias.shape[1] // 2
    reach = max(declared, len(weights.position_table) - first_position - 1)
    distances = np.clip(np.arange(-reach, reach + 1), -declared, declared) + declared
    return np.ascontiguousarray(weights.relative_bias[:, distances]), reach


def address(array: npt.NDArray[np.generic] | None) -> int | None:
    return None if array is None else array.ctypes.data
