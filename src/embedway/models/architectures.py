"""Which class runs which checkpoint: `load_model` makes a ModelSpec into an EmbeddingModel."""

from __future__ import annotations

import contextlib
import inspect
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import AutoConfig, AutoModel
from transformers.utils import logging as transformers_log

from embedway.errors import InvalidSetting, UnsupportedCheckpoint
from embedway.models.cpu_linear import pack_linears
from embedway.models.dense import load_dense
from embedway.models.mpnet import PackedMpnet
from embedway.models.packed_transformer import OneByOneTransformer, PackedTransformer
from embedway.models.self_check import SelfCheck, positions_stand_alone
from embedway.models.text_model import TextModel

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping

    from transformers import PreTrainedModel

    from embedway.model_spec import ModelSpec
    from embedway.models.interface import EmbeddingModel
    from embedway.models.text_model import TokenEncoder

logger = logging.getLogger("embedway.models")

ENCODERS: dict[str, Callable[[Any], TokenEncoder]] = {"mpnet": PackedMpnet}
"""By `model_type`, from that transformers model; any other is tried as a PackedTransformer."""
MODEL_CLASSES = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}
"""transformers' class where AutoModel would choose one with a decoder beside the encoder."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(spec: ModelSpec, *, dtype: str, device: str) -> EmbeddingModel:
    """Load a checkpoint from `spec.folder`, never from the network.

    dtype is `auto`, `float32`, `bfloat16` or `float16`; `auto` is float32 on a CPU, and on CUDA the checkpoint's own
    type, or bfloat16 where that is float32. device is `auto`, `cpu`, `cuda` or `cuda:<n>`.

    Raises UnsupportedCheckpoint where the folder cannot be loaded whole, InvalidSetting for a dtype or device that
    cannot be used.
    """
    place = resolve_device(device)
    weight_dtype = resolve_dtype(dtype, spec, place)
    with quiet_transformers():
        encoder = load_encoder(spec, weight_dtype, place)
    dense = tuple(load_dense(spec.folder, module, place) for module in spec.dense)
    return TextModel(spec, encoder, dense, dtype=weight_dtype, device=place)


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
        encoder = ENCODERS.get(spec.model_type, PackedTransformer)(model)
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
    require_all_weights(spec, report)
    drop_pooler(model)
    if spec.bidirectional is not None:
        set_direction(model, bidirectional=spec.bidirectional)
    model.config.use_cache = False  # a decoder would keep keys and values for a next token that never comes
    return model.eval().to(device)


def require_all_weights(spec: ModelSpec, report: Mapping[str, Iterable[object]]) -> None:
    """transformers fills a missing or misshapen weight with random numbers and goes on; we do not."""
    for kind, word in (("missing_keys", "lacks"), ("mismatched_keys", "has a wrong shape for")):
        keys = sorted(str(key) for key in report.get(kind, ()) if not str(key).startswith("pooler."))
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise UnsupportedCheckpoint(folder=spec.folder, problem=f"it {word} the weight {keys[0]}{more}")


def drop_pooler(model: PreTrainedModel) -> None:
    """BERT's pooler feeds a classifier: no embedding reads it."""
    if "add_pooling_layer" in inspect.signature(type(model).__init__).parameters:
        setattr(model, "pooler", None)  # noqa: B010 - a checker sees only that modules are set on modules


def set_direction(model: PreTrainedModel, *, bidirectional: bool) -> None:
    model.config.is_causal = not bidirectional  # read by transformers' masks
    for module in model.modules():
        if hasattr(module, "is_causal"):
            setattr(module, "is_causal", not bidirectional)  # noqa: B010 - read by attention, ours and theirs


def resolve_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise InvalidSetting(setting="--device", problem=f"{device!r} is not auto, cpu, cuda or cuda:<n>") from error
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        problem = f"there is no {device!r}: torch sees {torch.cuda.device_count()} CUDA devices"
        raise InvalidSetting(setting="--device", problem=problem)
    if place.type not in {"cpu", "cuda"}:
        raise InvalidSetting(setting="--device", problem=f"{device!r} is not auto, cpu, cuda or cuda:<n>")
    return place


def resolve_dtype(dtype: str, spec: ModelSpec, device: torch.device) -> torch.dtype:
    if dtype != "auto":
        if dtype not in DTYPES:
            raise InvalidSetting(setting="--dtype", problem=f"{dtype!r} is not auto, {', '.join(DTYPES)}")
        return DTYPES[dtype]
    if device.type == "cpu":
        return torch.float32
    config = AutoConfig.from_pretrained(
        spec.folder, local_files_only=True, trust_remote_code=spec.trust_remote_code
    ).get_text_config()
    declared = getattr(config, "dtype", None)
    return declared if declared in {torch.bfloat16, torch.float16} else torch.bfloat16


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
