"""What a request asks to embed → its vectors: admitted, tokenized, sent to the engine, and waited for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from embedway.adapter_ref import AdapterRef
from embedway.api.adapter_choice import AdapterChooser, with_adapters
from embedway.api.auth import key_number_of
from embedway.api.context import ApiContext, context_of
from embedway.api.error_response import request_id_of
from embedway.api.hot_routes import until_sent
from embedway.api.priority import priority_of
from embedway.api.request_context import clock_of, record_of
from embedway.engine.client import EmbedResult, Terms
from embedway.inputs.items import Items
from embedway.inputs.sequences import NO_VISUALS, InputOptions
from embedway.packed_sequences import PackedSequences
from embedway.visual import Visual

if TYPE_CHECKING:
    from fastapi import Request

    from embedway.api.admission import Permit
    from embedway.api.deadline import Deadline
    from embedway.api.schemas import EmbeddingRequest, EncodeRequest
    from embedway.api.served_models import ServedModel
    from embedway.media.reader import MediaReader
    from embedway.observability.request_log import RequestRecord
    from embedway.observability.stage_clock import StageClock

Submitted: TypeAlias = "tuple[PackedSequences, asyncio.Future[EmbedResult]]"
"""A request's sequences, and the engine's answer to come"""
Embedded: TypeAlias = "tuple[PackedSequences, EmbedResult]"


@dataclass(slots=True, eq=False)
class EmbeddingJob:
    """Items, how they are to be read, and for whom."""

    context: ApiContext
    model: ServedModel
    items: Items
    options: InputOptions
    work: int
    """Characters or token ids that are to be gone through"""
    is_quick: bool
    """They are, on the event loop"""
    adapter: str | None
    """The one that the model's name asks for"""
    lora_path: object
    priority: int
    """The scheduler's: larger first"""
    deadline: Deadline | None
    key_number: int
    """Of the API key it came with"""
    clock: StageClock
    """The request's"""

    @property
    def waits_for_engine_only(self) -> bool:
        return self.is_quick and not self.items.media and self.adapter is None and self.lora_path is None

    def describe(self, record: RequestRecord) -> None:
        """Write what is asked for."""
        record.items, record.priority = len(self.items), self.priority
        if self.context.request_log is not None:
            record.texts = self.context.request_log.texts_of(self.items.texts)
        asked = self.lora_path if self.adapter is None else self.adapter
        record.adapter = None if asked is None else str(asked)

    def admit(self) -> Permit:
        """Raises ServerOverloaded, or DeadlineExceeded."""
        tokens = self.model.sequences.estimate(self.items, self.work)
        timeout = None
        if self.deadline is not None:
            self.deadline.check()
            timeout = self.deadline.remaining_seconds()
        return self.model.admission.admit(tokens, priority=self.priority, timeout=timeout, key_number=self.key_number)

    async def embed(self, permit: Permit) -> Embedded:
        if self.items.media:
            await self._adapters()  # one that nobody knows is found before anything is fetched for it
            self.clock.begin("media")
        async with visuals_of(self.model.media, self.items) as visuals:
            sequences, answer = await self.submit(permit, visuals)
            try:
                return sequences, await answer
            finally:
                del answer  # it has the error that it brings, which has this frame: neither would be freed

    async def submit(self, permit: Permit, visuals: Mapping[int, tuple[Visual, ...]] = NO_VISUALS) -> Submitted:
        context = self.context
        self.clock.begin("tokenize")
        if self.is_quick:
            sequences = self._sequences(visuals)
        else:
            sequences = await context.threads.run(self.work, lambda: self._large_sequences(visuals))
        self.clock.end()
        permit.settle(sequences.num_tokens)
        adapters = await self._adapters()
        # nothing may wait from here on: see AdapterChooser.choose
        adapted = with_adapters(sequences, adapters)
        expires_at = None if self.deadline is None else self.deadline.expires_at
        terms = Terms(self.priority, self.items.param, expires_at, self.key_number)
        return sequences, self.model.engine.submit(adapted, terms)

    def _sequences(self, visuals: Mapping[int, tuple[Visual, ...]]) -> PackedSequences:
        return self.model.sequences.make(self.items, self.options, visuals)

    def _large_sequences(self, visuals: Mapping[int, tuple[Visual, ...]]) -> PackedSequences:
        """In a thread. The texts are freed there: that can take the event loop milliseconds, and they may be many."""
        try:
            return self._sequences(visuals)
        finally:
            self.items.let_go_of_texts()

    async def _adapters(self) -> Sequence[AdapterRef | None]:
        """One an item; none where the request says nothing of adapters, as nearly all do."""
        if self.adapter is None and self.lora_path is None:
            return ()
        chooser = AdapterChooser(self.model.adapters, self.model.settings.lora_root)
        return await chooser.choose(self.adapter, self.lora_path, self.items)


async def embed(
    request: Request,
    model: ServedModel,
    body: EmbeddingRequest | EncodeRequest,
    items: Items,
    options: InputOptions,
    *,
    deadline: Deadline | None,
    adapter: str | None = None,
) -> Embedded:
    """Embed a request's items, for as long as it is waited for: see `Waits.result`.

    Raises ModelUnavailable, ServerOverloaded, or DeadlineExceeded, before any work is done.
    """
    model.check_available()
    context = context_of(request)
    clock = clock_of(request)
    work = model.sequences.work(items, options)
    job = EmbeddingJob(
        context,
        model,
        items,
        options,
        work=work,
        is_quick=model.sequences.is_quick(items, work),
        adapter=adapter,
        lora_path=body.lora_path,
        priority=priority_of(request, body.priority, context.settings),
        deadline=deadline,
        key_number=key_number_of(request),
        clock=clock,
    )
    if (record := record_of(request)) is not None:
        job.describe(record)
    ids = (request_id_of(request), *(body.rid if isinstance(body.rid, list) else ()))
    permit = until_sent(request, job.admit())
    if job.waits_for_engine_only:  # a task would cost more than all that is done here
        sequences, answer = await job.submit(permit)
        try:
            result = await context.waits.result(request, answer, request_ids=ids, deadline=job.deadline)
        finally:
            del answer  # as above
    else:
        sequences, result = await context.waits.result(
            request, asyncio.ensure_future(job.embed(permit)), request_ids=ids, deadline=job.deadline
        )
    clock.answered(result.queue_seconds, result.compute_seconds)
    context.metrics.embedded(sequences.num_sequences, sequences.num_tokens)
    if record is not None:
        record.tokens = sequences.num_tokens
        record.queue_seconds, record.compute_seconds = result.queue_seconds, result.compute_seconds
    return sequences, result


@contextlib.asynccontextmanager
async def visuals_of(media: MediaReader | None, items: Items) -> AsyncGenerator[Mapping[int, tuple[Visual, ...]]]:
    """Their memory is held until the end of the block. Raises what `MediaReader.read` does, or MediaNotSupported."""
    if not items.media:
        yield NO_VISUALS
        return
    if media is None:
        items.require_text_only()
    assert media is not None
    async with media.read(items.media) as visuals:
        yield visuals
