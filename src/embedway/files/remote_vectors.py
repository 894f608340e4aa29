"""Items → vectors, from a server with OpenAI's /v1/embeddings: as many requests at a time as it was told, and patience
where the server has too much to do."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from embedway.errors import NonFiniteVector, ServerRefuses
from embedway.files.texts import Item
from embedway.files.vectors import Embedded
from embedway.load_test.client import Answer, Client, NoAnswer
from embedway.load_test.probe import listed_model, quote, words_of
from embedway.load_test.target import Target

MAX_ITEMS, MAX_CHARACTERS = 64, 64_000
"""Of a request: small enough that others of the server's users are served in between"""
AT_FAULT = (400, 413, 422)
"""Statuses that blame what was sent"""
PATIENCE_SECONDS = 600.0
"""Without any answer the run ends then; it can go on later"""
PLAIN_TEXT = "a text"
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
MAX_FAILURES = 3
"""Times that a server fails (500) on one request before its items are to blame"""


@dataclass(frozen=True, slots=True)
class RemoteOptions:
    """Fields of each request."""

    model: str | None
    """None: the first that the server lists"""
    fields: dict[str, Any]
    """Further ones: `dimensions`, `input_type` …"""
    concurrency: int = 4
    timeout: float = 300.0


@dataclass(slots=True)
class _Result:
    vectors: dict[int, npt.NDArray[np.float32]] = field(default_factory=dict)
    faults: dict[int, str] = field(default_factory=dict)
    num_tokens: int = 0


class RemoteVectors:
    """Implements `Vectors`. `close` it."""

    def __init__(self, target: Target, options: RemoteOptions) -> None:
        """Raises ServerRefuses where nobody answers, InvalidSetting where a model is to be named and none is listed."""
        self._target = target
        self._options = options
        self._loop = asyncio.new_event_loop()
        self._client = Client(target, timeout=options.timeout)
        self._answered_at = time.monotonic()
        self._dimension: int | None = None
        """Of its vectors, once it has given one"""
        try:
            self.model = self._loop.run_until_complete(self._model())
        except BaseException:
            self.close()
            raise

    async def _model(self) -> str:
        """Asks also where it is given: an address that is wrong is not worth the patience for a busy server."""
        try:
            answer = await self._client.send(self._target.head("GET", self._target.models_path))
        except NoAnswer as error:
            raise ServerRefuses(url=self._target.url, problem=str(error)) from error
        if self._options.model is not None:
            return self._options.model
        if answer.status in (401, 403):
            raise ServerRefuses(url=self._target.url, problem=quote(answer))
        return listed_model(answer, self._target)

    def close(self) -> None:
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        """The tasks of an `embed` that was interrupted, and all connections."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._client.close()
        await asyncio.sleep(0)  # they close in the loop's next turn

    def prepare(self, items: Sequence[Item]) -> Sequence[Item]:
        return items

    def embed(self, prepared: Sequence[Item]) -> Embedded:
        """Raises ServerRefuses where it answers nothing, or says no to all."""
        result = _Result()
        self._answered_at = time.monotonic()
        self._loop.run_until_complete(self._embed_all(prepared, result))
        vectors = np.zeros((len(prepared), self._dimension or 0), np.float32)
        for i, vector in result.vectors.items():
            if np.isfinite(vector).all():
                vectors[i] = vector
            else:
                result.faults[i] = NonFiniteVector(param="text").message
        return Embedded(vectors, result.faults, result.num_tokens)

    async def _embed_all(self, items: Sequence[Item], result: _Result) -> None:
        room = asyncio.Semaphore(self._options.concurrency)

        async def embed(numbers: Sequence[int]) -> None:
            async with room:
                await self._embed(items, numbers, result)

        tasks = [asyncio.ensure_future(embed(numbers)) for numbers in requests_of(items)]
        try:
            await asyncio.gather(*tasks)
        finally:  # one has failed: the others' answers are wanted no more
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _embed(self, items: Sequence[Item], numbers: Sequence[int], result: _Result) -> None:
        """The items of these numbers, in one request; where the server blames one of them, each in its own."""
        answer = await self._answer([items[i] for i in numbers])
        if answer.status == 200:
            self._read(answer, numbers, result)
            return
        await self._require_that_it_embeds()
        if len(numbers) == 1:
            result.faults[numbers[0]] = words_of(answer.body)
        else:
            for number in numbers:
                await self._embed(items, [number], result)

    async def _require_that_it_embeds(self) -> None:
        """Raises ServerRefuses where it has given no vector yet, and does not for the plainest text: then it is no item
        that it blames, but what is asked of all."""
        if self._dimension is None:
            result = _Result()
            answer = await self._answer([PLAIN_TEXT])
            if answer.status != 200:
                raise ServerRefuses(url=self._target.url, problem=quote(answer))
            self._read(answer, [0], result)

    async def _answer(self, items: Sequence[Item]) -> Answer:
        """One that says what becomes of these items. Raises ServerRefuses."""
        body = orjson.dumps({"model": self.model, "input": items, "encoding_format": "base64", **self._options.fields})
        head = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        request = self._target.head("POST", self._target.path, head) + body
        pause, num_failures = FIRST_PAUSE, 0
        while True:
            problem, wait = "", None
            try:
                answer = await self._client.send(request)
            except NoAnswer as error:
                problem = str(error)
            else:
                if answer.status == 200 or answer.status in AT_FAULT:
                    self._answered_at = time.monotonic()
                    return answer
                problem, wait = quote(answer), answer.retry_after
                if answer.status == 500:
                    num_failures += 1
                    if num_failures == MAX_FAILURES:
                        return answer
                elif answer.status not in (408, 409, 429, 502, 503, 504):
                    raise ServerRefuses(url=self._target.url, problem=problem)
            seconds = pause if wait is None else wait
            if time.monotonic() + seconds - self._answered_at > PATIENCE_SECONDS:
                asks = "" if wait is None else f" (it asks to wait for {wait:.0f} seconds)"
                raise ServerRefuses(url=self._target.url, problem=problem + asks)
            await asyncio.sleep(seconds)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _read(self, answer: Answer, numbers: Sequence[int], result: _Result) -> None:
        """Raises ServerRefuses for what is no answer of such a server."""
        try:
            content = orjson.loads(answer.body)
            data = content["data"]
            if len(data) != len(numbers):
                raise ValueError(f"it has {len(data)} vectors for {len(numbers)} items")
            if {entry["index"] for entry in data} != set(range(len(numbers))):
                raise ValueError("its vectors have other numbers than the items")
            for entry in data:
                vector = vector_of(entry["embedding"])
                self._dimension = self._dimension or len(vector)
                if len(vector) != self._dimension:
                    raise ValueError(f"a vector has {len(vector)} dimensions, and those before {self._dimension}")
                result.vectors[numbers[entry["index"]]] = vector
            result.num_tokens += (content.get("usage") or {}).get("prompt_tokens", 0)
        except KeyError as error:
            raise ServerRefuses(url=self._target.url, problem=f"its answer has no {error}") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise ServerRefuses(url=self._target.url, problem=f"its answer cannot be read ({error})") from error


def requests_of(items: Sequence[Item]) -> list[list[int]]:
    """Numbers of the items of each request."""
    requests: list[list[int]] = []
    size = 0
    for number, item in enumerate(items):
        own = len(item) if isinstance(item, str) else sum(map(len, item.values()))
        if not requests or len(requests[-1]) == MAX_ITEMS or size + own > MAX_CHARACTERS:
            requests.append([])
            size = 0
        requests[-1].append(number)
        size += own
    return requests


def vector_of(embedding: object) -> npt.NDArray[np.float32]:
    """Base64, or numbers from a server that does not know it. Raises ValueError or TypeError."""
    if isinstance(embedding, str):
        vector = np.frombuffer(base64.b64decode(embedding, validate=True), "<f4")
    else:
        vector = np.asarray(embedding, np.float32)
    if vector.ndim != 1 or not len(vector):
        raise ValueError("a vector is no list of numbers")
    return vector
