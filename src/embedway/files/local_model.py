"""Settings → a model of this process that gives vectors for files."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from embedway.config import Settings
from embedway.declared_model import model_of
from embedway.embedder import sequence_maker
from embedway.engine.scheduler import TARGET_BATCH_MS
from embedway.engine.warm_up import Samples, warm_up
from embedway.files.run import VectorForm
from embedway.files.vectors import LocalVectors
from embedway.inputs.items import parse_input
from embedway.inputs.sequences import InputOptions
from embedway.models.architectures import load_model
from embedway.models.cpu_threads import available_cores
from embedway.outputs.vector_types import check_dimensions, check_output_dtype


class LoadedVectors(NamedTuple):
    vectors: LocalVectors
    form: VectorForm
    """With the length that the model's folder declares, where none was asked for"""
    identity: dict[str, Any]
    """What of the model changes vectors"""


def load_vectors(settings: Settings, form: VectorForm, fields: dict[str, str]) -> LoadedVectors:
    """`fields` are InputOptions' own.

    Raises StartupError where there is no such model, RequestError where it cannot do what is asked.
    """
    location, spec = model_of(settings)
    dimensions = check_dimensions(spec, form.dimensions, allow_any=settings.matryoshka)
    check_output_dtype(form.output_dtype, dimension=dimensions or spec.dimension, normalize=form.normalize)
    sequences = sequence_maker(spec)
    options = InputOptions(**fields, truncate=settings.truncate)
    sequences.work(parse_input("a text", max_items=1), options)  # knows the prompts
    model = load_model(
        spec, dtype=settings.dtype, device=settings.device, threads=settings.threads or available_cores()
    )
    vectors = LocalVectors(
        model,
        sequences,
        options,
        time_model=warm_up(model, Samples.of(spec)),
        target_ms=settings.target_batch_ms or TARGET_BATCH_MS[model.device.partition(":")[0]],
        max_batch_tokens=settings.max_batch_tokens,
    )
    identity = {
        "name": settings.model_path,
        "revision": location.revision,
        "dtype": model.dtype,
        "pooling": spec.pooling,
        "max_length": spec.max_length,
        "truncate": settings.truncate,
    }
    return LoadedVectors(vectors, replace(form, dimensions=dimensions), identity)
