"""The API process's end of one decode worker."""

from __future__ import annotations

import asyncio
import contextlib
import sys

import msgspec
import numpy as np

from embedway.media.refusal import Refusal
from embedway.media.worker_messages import LENGTHS, READY, Answer, Job, Setup, lengths_and_header
from embedway.visual import MediaKind, Visual

COMMAND = (sys.executable, "-m", "embedway.media.worker")
START_SECONDS = 60.0
"""Longest start of a worker, on a machine that is very busy"""

END_SECONDS = 5.0
"""Longest time from the end of a worker's answers to its own"""


class WorkerDied(Exception):
    """It ended without an answer."""


class WorkerNotStarted(Exception):
    """No fault of the item's: the log has what the worker said."""


class WorkerProcess:
    """A started worker: one job at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._jobs, self._answers = process.stdin, process.stdout

    @classmethod
    async def start(cls, setup: Setup) -> WorkerProcess:
        """Start one and wait until it takes jobs: its start is not part of an item's time. Raises WorkerNotStarted."""
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        worker = cls(process)
        try:
            await asyncio.wait_for(worker._set_up(setup), START_SECONDS)
        except (asyncio.TimeoutError, asyncio.CancelledError, ConnectionError, asyncio.IncompleteReadError) as error:
            await worker.kill()
            if isinstance(error, asyncio.CancelledError):
                raise
            raise WorkerNotStarted from error
        return worker

    async def _set_up(self, setup: Setup) -> None:
        self._jobs.write(lengths_and_header(setup, 0))
        await self._answers.readexactly(len(READY))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.returncode is None

    async def run(self, kind: MediaKind, data: bytes) -> Visual | Refusal:
        """Decode one file. Raises WorkerDied; a worker whose `run` was cut short has to be killed."""
        try:
            self._jobs.write(lengths_and_header(Job(kind), len(data)))
            self._jobs.write(data)
            await self._jobs.drain()
            return await self._answer(kind)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            raise WorkerDied from error

    async def _answer(self, kind: MediaKind) -> Visual | Refusal:
        num_header_bytes, num_body_bytes = LENGTHS.unpack(await self._answers.readexactly(LENGTHS.size))
        answer = msgspec.msgpack.decode(await self._answers.readexactly(num_header_bytes), type=Answer)
        body = await self._answers.readexactly(num_body_bytes)
        if isinstance(answer, Refusal):
            return answer
        pixels = np.frombuffer(body, dtype=np.uint8).reshape(answer.shape)
        return Visual(kind, pixels, answer.num_tokens, answer.timestamps)

    async def kill(self) -> None:
        """End it at once and wait until it is gone."""
        if self._answers.at_eof():  # it is ending by itself; asyncio mislays the status of one killed once it has
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._process.wait(), END_SECONDS)
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        self._jobs.close()
        await self._process.wait()
