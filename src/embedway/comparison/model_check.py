"""The check itself: one model, loaded as the server would in each type, beside its reference."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from embedway.comparison.auto_tokenizer import TokenDifference, token_differences
from embedway.comparison.deviation import Deviation, deviation
from embedway.comparison.reference import declarations_of, load_reference
from embedway.comparison.samples import TEXTS, images
from embedway.declared_model import model_of
from embedway.embedder import Embedder, sequence_maker
from embedway.errors import CannotCheck, ServerFault, StartupError
from embedway.models.cpu_threads import available_cores
from embedway.models.devices import resolve_device

if TYPE_CHECKING:
    from PIL.Image import Image

    from embedway.comparison.deviation import Vectors
    from embedway.comparison.reference import Reference
    from embedway.config import Dtype, Settings
    from embedway.embedder import Input
    from embedway.model_spec import ModelSpec
    from embedway.models.checkpoint_location import Location

LONGEST = 512
"""Tokens of a text, where the model would read more: longer ones take minutes and show nothing new."""
ROUNDS = 3
"""Of the texts; the best one's time counts."""


@dataclass(frozen=True, slots=True)
class TypeCheck:
    """One type of the weights."""

    asked: Dtype
    facts: dict[str, str]
    """What the model says of itself; empty where it could not be loaded"""
    texts: Deviation | None = None
    images: Deviation | None = None
    """None for a model that reads none"""
    tokens_per_second: float | None = None
    problem: str | None = None
    """Why there are no vectors"""

    @property
    def is_possible(self) -> bool:
        """False: this machine, or this model, does not run in that type."""
        return bool(self.facts)

    @property
    def passes(self) -> bool:
        found = [one for one in (self.texts, self.images) if one is not None]
        return self.problem is None and all(one.is_explained(self.facts["dtype"]) for one in found)


@dataclass(frozen=True, slots=True)
class Expected:
    """What the reference made of the samples."""

    images_read: list[Image]
    """Empty for a model that reads none"""
    texts: Vectors
    images: Vectors | None
    seconds: float
    """For the texts"""

    @classmethod
    def of(cls, reference: Reference, *, reads_images: bool) -> Expected:
        read = images() if reads_images else []
        texts, seconds = timed(lambda: reference.embed_texts(TEXTS))
        return cls(read, texts, reference.embed_images(read) if read else None, seconds)


@dataclass(frozen=True, slots=True)
class ModelCheck:
    spec: ModelSpec
    location: Location
    reference: str
    """Its name"""
    reference_tokens_per_second: float
    declarations: dict[str, tuple[str, str | None]]
    """Name → as we read the folder, and as the reference does where it says"""
    token_differences: list[TokenDifference]
    types: list[TypeCheck]

    @property
    def passes(self) -> bool:
        is_alike = all(theirs in (None, ours) for ours, theirs in self.declarations.values())
        return is_alike and not self.token_differences and all(one.passes for one in self.types if one.is_possible)


def check_model(settings: Settings, dtypes: Sequence[Dtype], on_step: Callable[[str], object]) -> ModelCheck:
    """Compare in each of the types; `on_step` is told what begins.

    Raises StartupError where the model or its reference cannot be loaded, or the model runs in none of the types.
    """
    location, declared = model_of(settings)
    spec = shortened(declared) if settings.max_length is None else declared
    on_step("the reference, in float32")
    reference = load_reference(
        spec,
        location.folder,
        device=resolve_device(settings.device),
        threads=settings.threads or available_cores(),
    )
    expected = Expected.of(reference, reads_images=spec.vision is not None)
    reference_name, theirs = reference.name, reference.declarations
    del reference  # never two copies of a model
    ids = sequence_maker(spec).tokenizer.encode(TEXTS, truncate="end", max_length=spec.max_length)
    num_tokens = sum(map(len, ids))
    types = []
    for dtype in dtypes:
        on_step(dtype)
        types.append(check_type(settings, spec, dtype, expected, num_tokens))
    if not any(one.is_possible for one in types):
        raise CannotCheck(name=spec.name, problem=types[0].problem)
    return ModelCheck(
        spec=spec,
        location=location,
        reference=reference_name,
        reference_tokens_per_second=num_tokens / expected.seconds,
        declarations={name: (ours, theirs.get(name)) for name, ours in declarations_of(spec).items()},
        token_differences=token_differences(spec, TEXTS, ids),
        types=types,
    )


def shortened(spec: ModelSpec) -> ModelSpec:
    """Of a model that reads longer texts than are compared, one that does not."""
    return msgspec.structs.replace(spec, max_length=min(spec.max_length, LONGEST))


def check_type(settings: Settings, spec: ModelSpec, dtype: Dtype, expected: Expected, num_tokens: int) -> TypeCheck:
    try:
        embedder = Embedder(
            settings.model_path,
            revision=settings.revision,
            download_dir=settings.download_dir,
            dtype=dtype,
            device=settings.device,
            pooling=settings.pooling,
            max_length=spec.max_length,
            chat_template=settings.chat_template,
            trust_remote_code=settings.trust_remote_code,
            threads=settings.threads,
        )
    except StartupError as error:
        return TypeCheck(dtype, {}, problem=error.message)
    try:
        vectors, seconds = timed(lambda: embed(embedder, TEXTS))
        pictures = [{"image": image} for image in expected.images_read]
        images = None if expected.images is None else deviation(embed(embedder, pictures), expected.images)
    except ServerFault as error:  # a vector that is not finite, an item that fails
        return TypeCheck(dtype, embedder.facts, problem=error.message)
    return TypeCheck(dtype, embedder.facts, deviation(vectors, expected.texts), images, num_tokens / seconds)


def embed(embedder: Embedder, items: Input) -> Vectors:
    """[n, dimension]"""
    return np.asarray(embedder.embed(items, truncate="end"), np.float32)


def timed(call: Callable[[], Vectors]) -> tuple[Vectors, float]:
    """What it returns, and the seconds of the fastest of some rounds."""
    best = math.inf
    for _ in range(ROUNDS):
        began = time.perf_counter()
        result = call()
        best = min(best, time.perf_counter() - began)
    return result, best
