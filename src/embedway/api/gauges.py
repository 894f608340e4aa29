"""What `/metrics` shows of an API process's state, read now and then rather than kept with every request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedway.observability.families import (
    ADMISSION_LIMIT,
    ADMITTED_REQUESTS,
    ADMITTED_TOKENS,
    MEDIA_CACHE_BYTES,
    MEDIA_CACHE_HITS,
    MEDIA_HELD_BYTES,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from embedway.api.admission import Admission, Held
    from embedway.api.context import ApiContext
    from embedway.api.served_models import ServedModels
    from embedway.media.reader import MediaReader


def show(context: ApiContext) -> None:
    """Have the metrics read the state of this process, which the context holds, added up over its models."""
    metrics, models = context.metrics, context.models
    classes: dict[str, Callable[[Admission], Held]] = {"interactive": lambda a: a.interactive, "bulk": lambda a: a.bulk}
    for name, held in classes.items():
        metrics.watch(
            f'{ADMITTED_REQUESTS}{{class="{name}"}}',
            lambda held=held: sum(held(model.admission).requests for model in models),
        )
        metrics.watch(
            f'{ADMITTED_TOKENS}{{class="{name}"}}',
            lambda held=held: sum(held(model.admission).tokens for model in models),
        )
    metrics.watch(ADMISSION_LIMIT, lambda: sum(model.admission.max_tokens for model in models))
    metrics.watch(MEDIA_CACHE_HITS, lambda: sum(media.decoder.cache.hits for media in _readers(models)))
    metrics.watch(MEDIA_CACHE_BYTES, lambda: sum(media.decoder.cache.num_bytes for media in _readers(models)))
    metrics.watch(
        MEDIA_HELD_BYTES, lambda: sum(media.memory.held + media.memory_of_named.held for media in _readers(models))
    )


def _readers(models: ServedModels) -> Iterator[MediaReader]:
    return (model.media for model in models if model.media is not None)
