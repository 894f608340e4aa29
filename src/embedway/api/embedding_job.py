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
from embedway.inputs.sequences import NO_VISUALS
from embedway.packed_sequences import PackedSequences
from embedway.visual import Visual

if TYPE_CHECKING:
    from fastapi import Request

    from embedway.api.admission import Permit
    from embedway.api.deadline import Deadline
    from embedway.api.embedding_call import EmbeddingCall
    from embedway.media.reader import MediaReader
    from embedway.observability.request_log import RequestRecord
    from embedway.observability.stage_clock import StageClock

Submitted: TypeAlias = "tuple[PackedSequences, asyncio.Future[EmbedResult]]"
"""A request's sequences, and the engine's answer to come"""
Embedded: TypeAlias = "tuple[PackedSequences, EmbedResult]"


@dataclass(slots=True, eq=False)
class EmbeddingJob:
    """A call, and for whom it is done."""

    context: ApiContext
    call: EmbeddingCall
    work: int
    """Characters or token ids that are to be gone through"""
    is_quick: bool
    """They are, on the event loop"""
    priority: int
    """The scheduler's: larger first"""
    deadline: Deadline | None
    key_number: int
    """Of the API key it came with"""
    clock: StageClock
    """The request's"""

    @classmethod
    def of(
        cls,
        context: ApiContext,
        call: EmbeddingCall,
        *,
        priority: int,
        deadline: Deadline | None,
        key_number: int,
        clock: StageClock,
    ) -> EmbeddingJob:
        """Raises ModelUnavailable, UnknownPrompt or InvalidValue."""
        call.model.check_available()
        sequences = call.model.sequences
        work = sequences.work(call.items, call.options)
        return cls(context, call, work, sequences.is_quick(call.items, work), priority, deadline, key_number, clock)

    @property
    def waits_for_engine_only(self) -> bool:
        """There is nothing to be fetched, and nothing to be done beside the event loop."""
        call = self.call
        return self.is_quick and not call.items.media and call.adapter is None and call.body.lora_path is None

    def describe(self, record: RequestRecord) -> None:
        """Write what is asked for."""
        call = self.call
        record.items, record.priority = len(call.items), self.priority
        if self.context.request_log is not None:
            record.texts = self.context.request_log.texts_of(call.items.texts)
        asked = call.body.lora_path if call.adapter is None else call.adapter
        record.adapter = None if asked is None else str(asked)

    def admit(self) -> Permit:
        """Raises ServerOverloaded, or DeadlineExceeded."""
        model = self.call.model
        tokens = model.sequences.estimate(self.call.items, self.work)
        timeout = None
        if self.deadline is not None:
            self.deadline.check()
            timeout = self.deadline.remaining_seconds()
        return model.admission.admit(tokens, priority=self.priority, timeout=timeout, key_number=self.key_number)

    def answered(self, sequences: PackedSequences, result: EmbedResult) -> None:
        """Count what the engine has done."""
        self.clock.answered(result.queue_seconds, result.compute_seconds)
        self.context.metrics.embedded(sequences.num_sequences, sequences.num_tokens)

    async def embed(self, permit: Permit) -> Embedded:
        if self.call.items.media:
            await self._adapters()  # one that nobody knows is found before anything is fetched for it
            self.clock.begin("media")
        async with visuals_of(self.call.model.media, self.call.items) as visuals:
            sequences, answer = await self._submit(permit, visuals)
            try:
                return sequences, await answer
            finally:
                del answer  # it has the error that it brings, which has this frame: neither would be freed

    def submit_at_once(self, permit: Permit) -> Submitted:
        """Of a job that waits for the engine only."""
        self.clock.begin("tokenize")
        sequences = self._sequences(NO_VISUALS)
        self.clock.end()
        permit.settle(sequences.num_tokens)
        return sequences, self._sent(sequences)

    async def _submit(self, permit: Permit, visuals: Mapping[int, tuple[Visual, ...]]) -> Submitted:
        self.clock.begin("tokenize")
        if self.is_quick:
            sequences = self._sequences(visuals)
        else:
            sequences = await self.context.threads.run(self.work, lambda: self._large_sequences(visuals))
        self.clock.end()
        permit.settle(sequences.num_tokens)
        adapters = await self._adapters()
        # nothing may wait from here on: see AdapterChooser.choose
        return sequences, self._sent(with_adapters(sequences, adapters))

    def _sent(self, sequences: PackedSequences) -> asyncio.Future[EmbedResult]:
        expires_at = None if self.deadline is None else self.deadline.expires_at
        terms = Terms(self.priority, self.call.items.param, expires_at, self.key_number)
        return self.call.model.engine.submit(sequences, terms)

    def _sequences(self, visuals: Mapping[int, tuple[Visual, ...]]) -> PackedSequences:
        return self.call.model.sequences.make(self.call.items, self.call.options, visuals)

    def _large_sequences(self, visuals: Mapping[int, tuple[Visual, ...]]) -> PackedSequences:
        """In a thread. The texts are freed there: that can take the event loop milliseconds, and they may be many."""
        try:
            return self._sequences(visuals)
        finally:
            self.call.items.let_go_of_texts()

    async def _adapters(self) -> Sequence[AdapterRef | None]:
        """One an item; none where the request says nothing of adapters, as nearly all do."""
        call = self.call
        if call.adapter is None and call.body.lora_path is None:
            return ()
        chooser = AdapterChooser(call.model.adapters, call.model.settings.lora_root)
        return await chooser.choose(call.adapter, call.body.lora_path, call.items)


async def embed(request: Request, call: EmbeddingCall, deadline: Deadline | None) -> Embedded:
    """Do what a request asks for, for as long as it is waited for: see `Waits.result`.

    Raises ModelUnavailable, ServerOverloaded, or DeadlineExceeded, before any work is done.
    """
    context = context_of(request)
    job = EmbeddingJob.of(
        context,
        call,
        priority=priority_of(request, call.body.priority, context.settings),
        deadline=deadline,
        key_number=key_number_of(request),
        clock=clock_of(request),
    )
    if (record := record_of(request)) is not None:
        job.describe(record)
    ids = (request_id_of(request), *call.item_ids)
    permit = until_sent(request, job.admit())
    if job.waits_for_engine_only:  # a task would cost more than all that is done here
        sequences, answer = job.submit_at_once(permit)
        try:
            result = await context.waits.result(request, answer, request_ids=ids, deadline=deadline)
        finally:
            del answer  # as above
    else:
        sequences, result = await context.waits.result(
            request, asyncio.ensure_future(job.embed(permit)), request_ids=ids, deadline=deadline
        )
    job.answered(sequences, result)
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
