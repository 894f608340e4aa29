"""The compiled library: found beside this file and described to ctypes. Its interface is `src/embedway_kernels.h`."""

from __future__ import annotations

import ctypes
import functools
import logging
from pathlib import Path

logger = logging.getLogger("embedway.kernels")

LIBRARY = Path(__file__).with_name("libembedway_kernels.so")
"""Compiled when the package is installed where there is a compiler, or by `python -m embedway.kernels.compile`."""
ABI_VERSION = 3
ERROR_BYTES = 256

Pointer = ctypes.c_void_p
PREEMPT = ctypes.CFUNCTYPE(None)
"""What a batch calls to make way for another one"""


class EncoderConfigStruct(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("hidden_size", "num_heads", "intermediate_size", "num_layers")),
        ("activation", ctypes.c_int32),
        ("layer_norm_epsilon", ctypes.c_float),
        *((name, ctypes.c_int32) for name in ("first_position", "vocabulary", "positions", "threads")),
        *((name, Pointer) for name in ("word_table", "position_table", "token_type")),
        *((name, Pointer) for name in ("norm_weight", "norm_bias", "relative_bias")),
        ("reach", ctypes.c_int32),
    )


class LayerStruct(ctypes.Structure):
    _fields_ = tuple(
        (name, Pointer)
        for name in (
            *("qkv_weight", "qkv_bias", "attention_weight", "attention_bias"),
            *("attention_norm_weight", "attention_norm_bias", "up_weight", "up_bias"),
            *("down_weight", "down_bias", "output_norm_weight", "output_norm_bias"),
        )
    )


class LowRankStruct(ctypes.Structure):
    _fields_ = (("down", Pointer), ("up", Pointer), ("rank", ctypes.c_int32))


class LayerAdapterStruct(ctypes.Structure):
    _fields_ = tuple((name, LowRankStruct) for name in ("query", "key", "value", "attention", "up", "down"))


class BatchStruct(ctypes.Structure):
    _fields_ = (
        *((name, Pointer) for name in ("token_ids", "cu_seqlens", "pool_starts")),
        ("num_sequences", ctypes.c_int32),
        ("pooling", ctypes.c_int32),
        ("num_adapters", ctypes.c_int32),
        ("adapters", Pointer),
        ("adapter_of_sequence", Pointer),
    )


class AttentionStruct(ctypes.Structure):
    _fields_ = (
        *((name, Pointer) for name in ("query", "key", "value", "out", "cu_seqlens")),
        *((name, ctypes.c_int32) for name in ("num_sequences", "num_heads", "num_kv_heads")),
        *((name, ctypes.c_int32) for name in ("key_size", "value_size", "type")),
        *((name, ctypes.c_int64) for name in ("query_row", "query_head", "key_row", "key_head")),
        *((name, ctypes.c_int64) for name in ("value_row", "value_head", "out_row", "out_head")),
        ("scale", ctypes.c_float),
        ("causal", ctypes.c_int32),
        ("window", ctypes.c_int32),
        ("bias", Pointer),
        ("bias_head", ctypes.c_int64),
        ("bias_row", ctypes.c_int64),
    )


class ErrorText(ctypes.Array):  # type: ignore[type-arg]
    """Where the library writes why a call failed."""

    _type_ = ctypes.c_char
    _length_ = ERROR_BYTES

    def exception(self) -> Exception:
        sentence = self.value.decode(errors="replace")
        return MemoryError(sentence) if sentence == "out of memory" else ValueError(sentence)


@functools.cache
def load_library(path: Path = LIBRARY) -> ctypes.CDLL | None:
    """The library, or None where it was not compiled or is of another version. Looked for once a process."""
    if not path.is_file():
        return None
    try:
        library = ctypes.CDLL(str(path))
        if library.embedway_abi_version() != ABI_VERSION:
            logger.warning("%s is of another version of embedway and is not used", path)
            return None
    except (OSError, AttributeError) as error:
        logger.warning("the native library cannot be loaded: %s", error)
        return None
    signatures = {
        "embedway_instruction_set": (ctypes.c_char_p, [ctypes.c_int32]),
        "embedway_offers": (ctypes.c_int32, [ctypes.c_char_p, ctypes.c_int32]),
        "embedway_encoder_new": (
            Pointer,
            [ctypes.POINTER(EncoderConfigStruct), ctypes.c_char_p, ctypes.c_int32, Pointer],
        ),
        "embedway_encoder_set_layer": (
            ctypes.c_int32,
            [Pointer, ctypes.c_int32, ctypes.POINTER(LayerStruct), Pointer],
        ),
        "embedway_encoder_run": (
            ctypes.c_int32,
            [Pointer, ctypes.POINTER(BatchStruct), Pointer, Pointer, PREEMPT, Pointer],
        ),
        "embedway_encoder_free": (None, [Pointer]),
        "embedway_adapter_new": (Pointer, [Pointer, ctypes.POINTER(LayerAdapterStruct), Pointer]),
        "embedway_adapter_free": (None, [Pointer]),
        "embedway_attention": (
            ctypes.c_int32,
            [ctypes.POINTER(AttentionStruct), ctypes.c_char_p, ctypes.c_int32, Pointer, Pointer],
        ),
        "embedway_linear": (
            ctypes.c_double,
            [Pointer] * 3 + [ctypes.c_int32] * 4 + [ctypes.c_char_p, ctypes.c_int32, ctypes.c_int32, Pointer, Pointer],
        ),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
