"""Ray Data: a dataset of texts → the same with vectors, computed by actors that each hold a model."""

from __future__ import annotations

from typing import Any

import numpy as np
from ray.data import ActorPoolStrategy, Dataset

from embedway.embedder import Embedder


class EmbedBatch:
    """What an actor does with a batch of rows."""

    def __init__(self, model: str, text_column: str, vector_column: str, threads: int, options: dict[str, Any]) -> None:
        self._embedder = Embedder(model, threads=threads, max_batch_tokens=4096)
        self._text_column = text_column
        self._vector_column = vector_column
        self._options = options

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        texts = [str(text) for text in batch[self._text_column]]
        return {**batch, self._vector_column: self._embedder.embed(texts, **self._options)}


def embed_dataset(
    dataset: Dataset,
    model: str,
    *,
    text_column: str = "text",
    vector_column: str = "embedding",
    actors: int | tuple[int, int] = 1,
    cpus: float = 1.0,
    gpus: float = 0.0,
    batch_size: int = 1024,
    **options: Any,
) -> Dataset:
    """The dataset with `vector_column`, float32 [dimension] a row; lazy, as all that Ray Data does.

    `actors` is a number, or the fewest and the most of them; each has a model and `cpus` threads. `options` are those
    of `Embedder.embed`: `truncate`, `input_type`, `dimensions` … Ray Data holds blocks back where actors have enough,
    and gives the blocks of an actor or node that died to another.
    """
    fewest, most = (actors, actors) if isinstance(actors, int) else actors
    return dataset.map_batches(
        EmbedBatch,
        fn_constructor_args=(model, text_column, vector_column, max(1, round(cpus)), options),
        batch_size=batch_size,
        batch_format="numpy",
        compute=ActorPoolStrategy(min_size=fewest, max_size=most),
        num_cpus=cpus,
        num_gpus=gpus,
        max_restarts=-1,
        max_task_retries=-1,
    )
