"""The Python API: the same model, tokenizer and scheduler as the server's, in this process."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedway.config import DEFAULT_MODEL, Dtype, PoolingMode, Truncate
from embedway.engine.batch import pack
from embedway.engine.model_runner import ModelRunner
from embedway.engine.scheduler import QueuedRequest, Scheduler
from embedway.inputs.items import parse_input
from embedway.inputs.sequences import InputOptions, SequenceMaker
from embedway.model_spec import ModelSpec
from embedway.models.architectures import load_model
from embedway.models.checkpoint import read_spec
from embedway.models.checkpoint_location import locate
from embedway.models.cpu_threads import set_threads
from embedway.outputs.vector_types import OutputDtype, check_dimensions, finish
from embedway.packed_sequences import PackedSequences

Input = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | Sequence[Mapping[str, str]]


class Embedder:
    """A model in this process.

    >>> embedder = Embedder("sentence-transformers/all-MiniLM-L6-v2")
    >>> embedder.embed(["a cat", "a feline"]).shape
    (2, 384)

    Raises ModelNotAvailable or UnsupportedCheckpoint where the model cannot be loaded. May be shared by threads: calls
    take turns.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        *,
        revision: str | None = None,
        dtype: Dtype = "auto",
        device: str = "auto",
        pooling: PoolingMode | None = None,
        max_length: int | None = None,
        matryoshka: bool = False,
        trust_remote_code: bool = False,
        threads: int = 0,
        max_batch_tokens: int = 1024,
    ) -> None:
        ...
