"""The Python API: the same model, tokenizer and scheduler as the server's, in this process."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from embedway.config import DEFAULT_MODEL, Dtype, PoolingMode
from embedway.declared_model import find_model
from embedway.engine.batch import pack
from embedway.engine.model_runner import ModelRunner
from embedway.engine.scheduler import QueuedRequest, Scheduler
from embedway.errors import InvalidType, InvalidValue
from embedway.inputs.items import Items, parse_input
from embedway.inputs.request_budget import UNLIMITED
from embedway.inputs.sequences import InputOptions, SequenceMaker
from embedway.inputs.tokenizer import Truncate
from embedway.model_spec import ModelSpec
from embedway.models.architectures import load_model
from embedway.models.cpu_threads import available_cores
from embedway.models.tokenizer_conversion import convert, needs_conversion
from embedway.outputs.vector_types import OutputDtype, Vectors, check_dimensions, check_output_dtype, finish
from embedway.packed_sequences import PackedSequences
from embedway.visual import Visual

Input: TypeAlias = (
    str
    | Mapping[str, Any]
    | Sequence[str]
    | Sequence[int]
    | Sequence[Sequence[int]]
    | Sequence[Mapping[str, Any]]
    | npt.NDArray[np.integer]
    | npt.NDArray[np.str_]
)
_FORMS = "a string, token ids, an object with 'text', a list of them, or a numpy array of strings or integers"


class Embedder:
    """A model in this process. Calls from several threads take turns.

    >>> from embedway import Embedder
    >>> embedder = Embedder("sentence-transformers/all-MiniLM-L6-v2")
    >>> embedder.embed(["a cat", "a feline"]).shape
    (2, 384)
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        *,
        revision: str | None = None,
        download_dir: str | Path | None = None,
        dtype: Dtype = "auto",
        device: str = "auto",
        pooling: PoolingMode | None = None,
        max_length: int | None = None,
        chat_template: str | None = None,
        matryoshka: bool = False,
        trust_remote_code: bool = False,
        threads: int = 0,
        max_batch_tokens: int = 1024,
    ) -> None:
        """Load a model: a Hugging Face id or a folder. The settings are those of `embedway serve`.

        Raises ModelNotAvailable, UnsupportedCheckpoint, InvalidSetting, or TorchNotInstalled where it needs the extra.
        """
        _, spec = find_model(
            str(model),
            revision=revision,
            download_dir=download_dir,
            pooling=pooling,
            max_length=max_length,
            chat_template=chat_template,
            trust_remote_code=trust_remote_code,
        )
        self._sequences = sequence_maker(spec)
        num_threads = threads or available_cores()
        loaded = load_model(spec, dtype=dtype, device=device, threads=num_threads)
        self._runner = ModelRunner(loaded)
        self._max_batch_tokens = max_batch_tokens
        self._matryoshka = matryoshka
        self._lock = threading.Lock()
        self.spec = spec
        self.facts = {"dtype": loaded.dtype, "device": loaded.device, **loaded.facts}
        """How the model runs, in words: its backend, how its type was chosen"""

    def embed(
        self,
        texts: Input,
        *,
        input_type: str | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        truncate: Truncate = "none",
        dimensions: int | None = None,
        normalize: bool = True,
        output_dtype: OutputDtype = "float32",
    ) -> Vectors:
        """Embed texts or token ids, in any form that `input` of POST /v1/embeddings has.

        An object's `image` or `video` may also be a path, bytes or Pillow's image; URLs are not fetched.

        Returns [n, dimension], or [dimension] for a single string, list of ids or object; float32 of unit length unless
        the arguments say otherwise. An empty list gives [0, dimension]. numpy arrays are taken as the lists that they
        stand for. Raises the errors of the HTTP API, with the same sentences.
        """
        if truncate not in get_args(Truncate):
            known = ", ".join(map(repr, get_args(Truncate)))
            raise InvalidValue(param="truncate", problem=f"is {truncate!r}, but it must be one of {known}")
        length = check_dimensions(self.spec, dimensions, allow_any=self._matryoshka)
        check_output_dtype(output_dtype, dimension=length or self.spec.dimension, normalize=normalize)
        plain = _plain(texts, "texts")
        if plain == []:
            empty = np.empty((0, self.spec.dimension), dtype=np.float32)
            return finish(empty, dimensions=length, normalize=normalize, output_dtype=output_dtype)
        items = parse_input(plain, max_items=UNLIMITED, field="texts")
        options = InputOptions(input_type, prompt_name, prompt, truncate)
        sequences = self._sequences.make(items, options, self._visuals(items))
        vectors = self._run(sequences, items)
        finished = finish(vectors, dimensions=length, normalize=normalize, output_dtype=output_dtype)
        return finished[0] if items.is_single else finished

    def _visuals(self, items: Items) -> dict[int, tuple[Visual, ...]]:
        """Raises MediaNotSupported, and what `read_here` raises."""
        if not items.media:
            return {}
        if self.spec.vision is None:
            items.require_text_only()
        from embedway.media.in_process import read_here

        return {i: tuple(read_here(ref, self.spec) for ref in refs) for i, refs in items.media.items()}

    def _run(self, sequences: PackedSequences, items: Items) -> npt.NDArray[np.float32]:
        """float32 [n, dimension], not normalised. Raises ItemFailed or NonFiniteVector."""
        request = QueuedRequest(0, sequences.token_ids, sequences.cu_seqlens, sequences.pool_start)
        request.visuals = sequences.visuals
        scheduler = Scheduler[QueuedRequest](max_batch_tokens=self._max_batch_tokens)
        scheduler.add(request)
        vectors = np.empty((sequences.num_sequences, self.spec.dimension), dtype=np.float32)
        first = 0
        with self._lock:
            for batch, outcome in self._runner.run_in_turn(map(pack, iter(scheduler.next_batch, []))):
                for i, fault in sorted(outcome.faults.items()):
                    raise fault(param=items.param(first + i))
                vectors[first : first + batch.num_sequences] = outcome.vectors
                first += batch.num_sequences
        return vectors


def sequence_maker(spec: ModelSpec) -> SequenceMaker:
    """With a tokenizer.json made of an older kind of tokenizer, where there is none."""
    if not needs_conversion(spec):
        return SequenceMaker.load(spec, max_request_tokens=UNLIMITED)
    with tempfile.TemporaryDirectory() as folder:
        convert(spec.tokenizer_folder, folder)
        readable = msgspec.structs.replace(spec, tokenizer_folder=folder)
        return SequenceMaker.load(readable, max_request_tokens=UNLIMITED)


def _plain(value: object, param: str) -> object:
    """Strings, mappings, sequences and arrays as JSON would have given them; numpy's values as Python's.

    Raises InvalidType for all else; `parse_input` refuses what JSON could have given, but should not.
    """
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return _plain_object(value)
    if isinstance(value, np.ndarray):
        return _plain_array(value, param)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        if set(map(type, value)) <= {str, int}:
            return list(value)
        return [_plain_part(part, f"{param}[{i}]") for i, part in enumerate(value)]
    raise InvalidType(param=param, expected=_FORMS, got=f"a Python {type(value).__name__}")


def _plain_object(value: Mapping[str, object]) -> dict[str, object]:
    """With its image and video as a request would have them."""
    if not value.keys() & {"image", "video"}:
        return dict(value)
    from embedway.media.in_process import as_text

    return {key: as_text(part) if key in ("image", "video") else part for key, part in value.items()}


def _plain_array(array: npt.NDArray[Any], param: str) -> object:
    if array.shape == (0,):
        return []  # of whatever type: numpy makes an empty list an array of floats
    if array.dtype.kind == "O":
        return _plain(array.tolist(), param)
    if array.dtype.kind not in "iuUT":
        raise InvalidType(param=param, expected=_FORMS, got=f"an array of {array.dtype}")
    return array.tolist()


def _plain_part(part: object, param: str) -> object:
    if isinstance(part, np.generic) and not isinstance(part, str | bytes):
        return part.item()
    return part if part is None or isinstance(part, bool | int | float) else _plain(part, param)
