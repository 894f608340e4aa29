"""Runs over the fake model, and the real MiniLM tokenizer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from embedway.config import DEFAULT_MODEL
from embedway.engine.batch_time_model import BatchTimeModel
from embedway.files.locations import locate
from embedway.files.parts import Parts
from embedway.files.reading import Format, find_sources
from embedway.files.run import Plan, Progress, VectorForm, is_own, run
from embedway.files.texts import Columns
from embedway.files.vectors import LocalVectors
from embedway.inputs.request_budget import UNLIMITED
from embedway.inputs.sequences import InputOptions, SequenceMaker
from embedway.models.checkpoint import read_spec
from embedway.models.checkpoint_location import locate as locate_model
from fake_model import DIMENSION, FakeModel, fake_vector

Run = Callable[..., Progress]
EVERYTHING = Columns("text", None, None, "embedding")


@pytest.fixture(scope="session")
def sequences() -> SequenceMaker:
    spec = msgspec.structs.replace(read_spec(locate_model(DEFAULT_MODEL), name=DEFAULT_MODEL), dimension=DIMENSION)
    return SequenceMaker.load(spec, max_request_tokens=UNLIMITED)


@pytest.fixture
def local_vectors(sequences: SequenceMaker) -> Callable[..., LocalVectors]:
    def make(model: FakeModel | None = None, **options: Any) -> LocalVectors:
        return LocalVectors(
            model or FakeModel(),
            sequences,
            InputOptions(**options),
            time_model=BatchTimeModel(),
            target_ms=20.0,
            max_batch_tokens=64,
        )

    return make


@pytest.fixture
def embed(local_vectors: Callable[..., LocalVectors]) -> Run:
    """`embed(inputs, output)`: a run, and how far it came."""

    def start(
        inputs: Sequence[str | Path],
        output: str | Path,
        *,
        vectors: Any = None,
        columns: Columns = EVERYTHING,
        form: VectorForm = VectorForm(normalize=False),  # noqa: B008 - it is frozen
        chunk_rows: int = 3,
        input_format: Format | None = None,
        fail_fast: bool = False,
        manifest: Mapping[str, Any] = {},
    ) -> Progress:
        place = locate(str(output), "--output")
        plan = Plan(
            find_sources(list(map(str, inputs)), input_format, functools.partial(is_own, place)),
            place,
            columns,
            form,
            chunk_rows,
            fail_fast=fail_fast,
            manifest=manifest,
        )
        progress = Progress(sum(source.size for source in plan.sources))
        with Parts(plan.output).locked():
            run(plan, vectors or local_vectors(), progress)
        return progress

    return start


@pytest.fixture
def vector_of(sequences: SequenceMaker) -> Callable[[str], npt.NDArray[np.float32]]:
    """A text's vector, by the fake model."""

    def vector(text: str) -> npt.NDArray[np.float32]:
        from embedway.inputs.items import parse_input

        made = sequences.make(parse_input(text, max_items=1), InputOptions())
        return fake_vector(made.token_ids)

    return vector
