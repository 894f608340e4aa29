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

from embedway.errors import ServerRefuses
from embedway.files.texts import Item
from embedway.files.vectors import Embedded
from embedway.load_test.client import Answer, Client, NoAnswer
from embedway.load_test.probe import served_model, words_of
from embedway.load_test.target import Target

MAX_ITEMS, MAX_CHARACTERS = 64, 64_000
"""Of a request: small enough that others of the server's users are served in between"""
AT_FAULT = (400, 413, 422)
"""Statuses that blame what was sent"""
PATIENCE_SECONDS = 600.0
"""Without any answer the run ends then; it can go on later"""
FIRST_PATIENCE_SECONDS = 10.0
"""Before it has ever answered: an address that is wrong is not waited for"""
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
        """Raises NotMeasurable where the server says nothing, InvalidSetting where it lists no model."""
        self._target = target
        self._options = options
        self._loop = asyncio.new_event_loop()
        self._client = Client(target, timeout=options.timeout)
        self._answered_at = time.monotonic()
        self._patience = FIRST_PATIENCE_SECONDS
        self._dimension: int | None = None
        """Of its vectors, once there is one"""
        try:
            self.model = options.model or self._loop.run_until_complete(served_model(self._client))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._client.close()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def prepare(self, items: Sequence[Item]) -> Sequence[Item]:
        return items

    def embed(self, prepared: Sequence[Item]) -> Embedded:
        """Raises ServerRefuses where it answers nothing, or says no to all."""
        result = _Result()
        self._answered_at = time.monotonic()
        self._loop.run_until_complete(self._embed_all(prepared, result))
        dimension = len(next(iter(result.vectors.values()))) if result.vectors else 0
        vectors = np.zeros((len(prepared), dimension), np.float32)
        for i, vector in result.vectors.items():
            vectors[i] = vector
        return Embedded(vectors, result.faults, result.num_tokens)

    async def _embed_all(self, items: Sequence[Item], result: _Result) -> None:
        room = asyncio.Semaphore(self._options.concurrency)

        async def embed(numbers: Sequence[int]) -> None:
            async with room:
                await self._embed(items, numbers, result)

        await asyncio.gather(*(embed(numbers) for numbers in requests_of(items)))

    async def _embed(self, items: Sequence[Item], numbers: Sequence[int], result: _Result) -> None:
        """The items of these numbers, in one request; where the server blames one of them, each in its own."""
        answer = await self._answer([items[i] for i in numbers])
        if answer.status == 200:
            self._read(answer, numbers, result)
        elif len(numbers) == 1:
            result.faults[numbers[0]] = words_of(answer.body)
        else:
            for number in numbers:
                await self._embed(items, [number], result)

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
                    self._patience = PATIENCE_SECONDS
                    return answer
                self._patience = PATIENCE_SECONDS  # it is there
                problem, wait = f"{answer.status}: {words_of(answer.body)}", answer.retry_after
                if answer.status == 500:
                    num_failures += 1
                    if num_failures == MAX_FAILURES:
                        return answer
                elif answer.status not in (408, 409, 429, 502, 503, 504):
                    raise ServerRefuses(url=self._target.url, problem=problem)
            if time.monotonic() - self._answered_at > self._patience:
                raise ServerRefuses(url=self._target.url, problem=problem)
            await asyncio.sleep(pause if wait is None else wait)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _read(self, answer: Answer, numbers: Sequence[int], result: _Result) -> None:
        """Raises ServerRefuses for what is no answer of such a server."""
        try:
            content = orjson.loads(answer.body)
            data = content["data"]
            if len(data) != len(numbers):
                raise ValueError(f"it has {len(data)} vectors for {len(numbers)} items")
            for entry in data:
                vector = vector_of(entry["embedding"])
                self._dimension = self._dimension or len(vector)
                if len(vector) != self._dimension:
                    raise ValueError(f"vectors of {self._dimension} numbers came before, and now one of {len(vector)}")
                result.vectors[numbers[entry["index"]]] = vector
            result.num_tokens += content.get("usage", {}).get("prompt_tokens", 0)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
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
    """Base64, or numbers from a server that does not know it."""
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding), "<f4")
    return np.asarray(embedding, np.float32)
