"""Any text model that transformers has: a checkpoint → a TextModel, packed where that gives the same vectors."""

from __future__ import annotations

import contextlib
import inspect
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import transformers
from transformers import AutoModel
from transformers.utils import logging as transformers_log

from embedway.errors import UnsupportedCheckpoint
from embedway.models.cpu_linear import pack_linears
from embedway.models.dense import load_dense_modules
from embedway.models.packed_transformer import OneByOneTransformer, PackedTransformer
from embedway.models.self_check import SelfCheck, positions_stand_alone
from embedway.models.text_model import TextModel
from embedway.models.torch_types import TORCH_TYPES
from embedway.models.weight_dtype import check_dtype, declared_dtype
from embedway.models.weight_files import require_weights

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from transformers import PreTrainedModel

    from embedway.model_spec import ModelSpec
    from embedway.models.text_model import TokenEncoder

logger = logging.getLogger("embedway.models")

MODEL_CLASSES = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}
"""transformers' class where AutoModel would choose one with a decoder beside the encoder."""


def load_with_transformers(spec: ModelSpec, *, dtype: str, device: str, threads: int) -> TextModel:
    """dtype may be `auto`; device is `cpu`, `cuda` or `cuda:<n>`. Raises UnsupportedCheckpoint."""
    torch.set_num_threads(threads)
    place = torch.device(device)
    automatic = "float32" if place.type == "cpu" else declared_dtype(spec)
    weight_dtype = TORCH_TYPES[automatic if dtype == "auto" else check_dtype(dtype)]
    with quiet_transformers():
        encoder = load_encoder(spec, weight_dtype, place)
    how = "packed" if isinstance(encoder, PackedTransformer) else "one sequence at a time"
    dense = load_dense_modules(spec)
    return TextModel(spec, encoder, dense, dtype=weight_dtype, device=place, backend=f"transformers, {how}")


def load_encoder(spec: ModelSpec, dtype: torch.dtype, device: torch.device) -> TokenEncoder:
    """The model packed and checked against transformers; one sequence at a time where it cannot be packed."""
    encoder = load_packed(spec, dtype, device)
    if encoder is not None:
        return encoder
    if spec.bidirectional is not None:
        # transformers' own attention may ignore the declared direction, so there is no safe way to run it
        problem = f"its attention cannot be made {'bidirectional' if spec.bidirectional else 'causal'} as it declares"
        raise UnsupportedCheckpoint(folder=spec.folder, problem=problem)
    logger.warning("%s (%s) cannot be packed: it runs one sequence at a time, slowly", spec.name, spec.model_type)
    return OneByOneTransformer(load_transformer(spec, dtype, device))


def load_packed(spec: ModelSpec, dtype: torch.dtype, device: torch.device) -> TokenEncoder | None:
    """The model, changed to run packed; None where it then disagrees with transformers' own result."""
    model = load_transformer(spec, dtype, device)
    if not positions_stand_alone(model, spec.max_length):
        return None
    check = SelfCheck(model, spec)
    try:
        encoder = PackedTransformer(model)
    except (AttributeError, ValueError) as error:  # a model class of older make, or one of remote code
        logger.debug("%s does not take an attention of ours: %s", spec.name, error)
        return None
    pack_linears(model)
    return encoder if check.passes(encoder) else None


def load_transformer(spec: ModelSpec, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """The bare transformers model, every weight read, its attention in the direction that the spec declares."""
    if not any(Path(spec.folder).glob("*.safetensors")):
        problem = "it has no *.safetensors file (pickled weights such as pytorch_model.bin are not loaded)"
        raise UnsupportedCheckpoint(folder=spec.folder, problem=problem)
    build = getattr(transformers, MODEL_CLASSES[spec.model_type]) if spec.model_type in MODEL_CLASSES else AutoModel
    try:
        model, report = build.from_pretrained(
            spec.folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=spec.trust_remote_code,
            ignore_mismatched_sizes=True,  # they are in the report, and refused below by name
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises many kinds, each with its own long text
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        problem = f"transformers {transformers.__version__} cannot load it: {reason}"
        raise UnsupportedCheckpoint(folder=spec.folder, problem=problem) from error
    # transformers fills a missing or misshapen weight with random numbers and goes on; we do not
    require_weights(spec.folder, missing=_named(report["missing_keys"]), misshapen=_named(report["mismatched_keys"]))
    drop_pooler(model)
    if spec.bidirectional is not None:
        set_direction(model, bidirectional=spec.bidirectional)
    model.config.get_text_config().use_cache = (
        False  # a decoder would keep keys and values for a next token that never comes
    )
    return model.eval().to(device)


def _named(keys: Iterable[object]) -> list[str]:
    """Of a loading report; a misshapen weight is listed with its shapes. What feeds the pooler is of no interest."""
    return [str(key) for key in keys if not str(key).startswith("pooler.")]


def drop_pooler(model: PreTrainedModel) -> None:
    """BERT's pooler feeds a classifier: no embedding reads it."""
    if "add_pooling_layer" in inspect.signature(type(model).__init__).parameters:
        setattr(model, "pooler", None)  # noqa: B010 - a checker sees only that modules are set on modules


def set_direction(model: PreTrainedModel, *, bidirectional: bool) -> None:
    model.config.is_causal = not bidirectional  # read by transformers' masks
    for module in model.modules():
        if hasattr(module, "is_causal"):
            setattr(module, "is_causal", not bidirectional)  # noqa: B010 - read by attention, ours and theirs


@contextlib.contextmanager
def quiet_transformers() -> Generator[None, None, None]:
    """Loading without transformers' progress bars and reports: what matters in them is raised as an error of ours."""
    verbosity, bars = transformers_log.get_verbosity(), transformers_log.is_progress_bar_enabled()
    transformers_log.set_verbosity_error()
    transformers_log.disable_progress_bar()
    try:
        yield
    finally:
        transformers_log.set_verbosity(verbosity)
        if bars:
            transformers_log.enable_progress_bar()
