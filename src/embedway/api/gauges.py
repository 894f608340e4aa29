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
    from embedway.api.admission import Admission
    from embedway.api.context import ApiContext
    from embedway.media.reader import MediaReader
    from embedway.observability.metrics import Metrics


def show(context: ApiContext) -> None:
    """Have the metrics read the state of this process, which the context holds."""
    _show_admission(context.metrics, context.admission)
    if context.media is not None:
        _show_media(context.metrics, context.media)


def _show_admission(metrics: Metrics, admission: Admission) -> None:
    for name, held in (("interactive", admission.interactive), ("bulk", admission.bulk)):
        metrics.watch(f'{ADMITTED_REQUESTS}{{class="{name}"}}', lambda held=held: held.requests)
        metrics.watch(f'{ADMITTED_TOKENS}{{class="{name}"}}', lambda held=held: held.tokens)
    metrics.watch(ADMISSION_LIMIT, lambda: admission.max_tokens)


def _show_media(metrics: Metrics, media: MediaReader) -> None:
    cache = media.decoder.cache
    metrics.watch(MEDIA_CACHE_HITS, lambda: cache.hits)
    metrics.watch(MEDIA_CACHE_BYTES, lambda: cache.num_bytes)
    metrics.watch(MEDIA_HELD_BYTES, lambda: media.memory.held + media.memory_of_named.held)
