"""Ray Data: a dataset of texts → the same with vectors, computed by actors that each hold a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from ray.data import ActorPoolStrategy, Dataset
from ray.data.checkpoint import CheckpointConfig

from embedway.cluster.checkpoints import with_checkpoints
from embedway.config import load_settings
from embedway.errors import InvalidSetting, RequestError
from embedway.files.local_model import load_vectors
from embedway.files.run import VectorForm
from embedway.files.texts import Item, item_of
from embedway.inputs.tokenizer import Truncate
from embedway.outputs.output_dtype import OutputDtype
from embedway.outputs.vector_types import finish


@dataclass(frozen=True, slots=True)
class RowForm:
    """What becomes of a row."""

    text_column: str
    vector_column: str
    error_column: str
    vectors: VectorForm
    fail_fast: bool


class EmbedBatch:
    """What an actor does with a batch of rows."""

    def __init__(self, settings: dict[str, Any], form: RowForm, fields: dict[str, str]) -> None:
        loaded = load_vectors(load_settings(settings), form.vectors, fields)
        self._vectors, self._form = loaded.vectors, replace(form, vectors=loaded.form)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Raises InvalidSetting where columns are not as they must be, and ValueError with `fail_fast`."""
        form = self._form
        if not len(batch):  # a file without rows may have no columns either
            return batch
        _check_columns(batch.column_names, form)
        items: list[Item] = []
        good: list[int] = []
        errors: list[str | None] = []
        for i, value in enumerate(batch.column(form.text_column).to_pylist()):
            item = item_of(value, form.text_column)
            errors.append(item.message if isinstance(item, RequestError) else None)
            if not isinstance(item, RequestError):
                items.append(item)
                good.append(i)
        embedded = self._vectors.embed(self._vectors.prepare(items))
        for place, reason in embedded.faults.items():
            errors[good[place]] = reason
        if form.fail_fast and (reason := next(filter(None, errors), None)) is not None:
            raise ValueError(f"row {errors.index(reason)} of a batch of {len(errors)} has no vector: {reason}")
        finished = finish(
            embedded.vectors,
            dimensions=form.vectors.dimensions,
            normalize=form.vectors.normalize,
            output_dtype=form.vectors.output_dtype,
        )
        vectors = np.zeros((len(errors), finished.shape[1]), finished.dtype)
        vectors[good] = finished
        is_null = pa.array([error is not None for error in errors], pa.bool_())
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1], mask=is_null)
        return batch.append_column(form.vector_column, column).append_column(
            form.error_column, pa.array(errors, pa.string())
        )


def _check_columns(names: list[str], form: RowForm) -> None:
    if form.text_column not in names:
        problem = f"there is no column {form.text_column!r}; there are: {', '.join(names)}"
        raise InvalidSetting(setting="text_column", problem=problem)
    for setting, name in (("vector_column", form.vector_column), ("error_column", form.error_column)):
        if name in names:
            raise InvalidSetting(setting=setting, problem=f"there is a column {name!r} already")


def embed_dataset(
    dataset: Dataset,
    model: str,
    *,
    text_column: str = "text",
    vector_column: str = "embedding",
    error_column: str = "embedding_error",
    input_type: str | None = None,
    prompt_name: str | None = None,
    prompt: str | None = None,
    truncate: Truncate = "none",
    dimensions: int | None = None,
    normalize: bool = True,
    output_dtype: OutputDtype = "float32",
    fail_fast: bool = False,
    checkpoint: CheckpointConfig | None = None,
    actors: int | tuple[int, int] = 1,
    cpus: float = 1.0,
    gpus: float = 0.0,
    batch_size: int = 1024,
    block_rows: int = 8192,
) -> Dataset:
    """The dataset with `vector_column`, a fixed-size list of `output_dtype` a row; lazy, as all that Ray Data does.

    A row that cannot be embedded (no text, nothing in it, too long) has null there, and why in `error_column`, which is
    null for all others; with `fail_fast` it ends the job. `actors` is a number, or the fewest and the most of them;
    each has a model and `cpus` threads. Ray Data holds blocks back where actors have enough, and gives the blocks of an
    actor or node that died to another.

    `block_rows` are the most rows of a block: what an actor has at a time, and what is written as a file. With
    `checkpoint`, a job that ends in `write_parquet` or another writer of files and is killed goes on when it is run
    again: no block that was written is embedded again, and each row is written once. The checkpoint's `id_column` has a
    value of its own in each row, never null, and stays until the rows are written. Raises InvalidSetting where the
    dataset is not one that can go on.
    """
    if checkpoint is not None:
        dataset = with_checkpoints(dataset, checkpoint)
    fewest, most = (actors, actors) if isinstance(actors, int) else actors
    settings = {"model_path": model, "truncate": truncate, "threads": max(1, round(cpus))}
    form = RowForm(text_column, vector_column, error_column, VectorForm(dimensions, normalize, output_dtype), fail_fast)
    fields = {"input_type": input_type, "prompt_name": prompt_name, "prompt": prompt}
    # one file is one block as it is read: one actor's, and done twice after a kill
    blocks = dataset.repartition(target_num_rows_per_block=block_rows)
    return blocks.map_batches(
        EmbedBatch,
        fn_constructor_args=(settings, form, {name: value for name, value in fields.items() if value is not None}),
        batch_size=batch_size,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=fewest, max_size=most),
        num_cpus=cpus,
        num_gpus=gpus,
    )
