"""`python -m embedway.batches.validator`: validates one file in a process of its own, and says what it found.

A parser keeps Python's lock: 200 MB of JSON would stop an API process's event loop for longer than a query takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
from pathlib import Path

import msgspec

from embedway.batches.records import BatchError, Limits
from embedway.batches.validation import Report, validate

NICENESS = 10
"""Nobody waits for it but a batch"""
MOST_MEMORY = 4 << 30
"""Bytes: a line of 64 MiB of brackets is the worst case"""
COMMAND = (sys.executable, "-m", "embedway.batches.validator")


class Job(msgspec.Struct, frozen=True):
    requests: str
    index: str
    """Paths"""
    limits: Limits


class ValidatorLost(Exception):
    """It ended without a word."""


async def validated(requests: Path, index: Path, limits: Limits) -> Report:
    """Have a file validated, and its index written. Raises ValidatorLost."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    try:
        answer, _ = await process.communicate(msgspec.json.encode(Job(str(requests), str(index), limits)))
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()
    if process.returncode != 0:
        raise ValidatorLost(f"the validator ended with status {process.returncode}")
    return msgspec.json.decode(answer, type=Report)


def main() -> None:
    os.nice(NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor
    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit; a stricter one of the operator's stays
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    own = Path(f"{job.index}.{os.getpid()}")  # whoever started another one before may be gone, and that one not
    try:
        with Path(job.requests).open("rb") as requests, own.open("wb") as index:
            report = validate(requests, index, job.limits)
            index.flush()
            os.fsync(index.fileno())
        own.replace(job.index)
    except MemoryError:
        report = Report(errors=[BatchError("file_too_complex", "A line takes more memory than there is to read one.")])
    sys.stdout.buffer.write(msgspec.json.encode(report))


if __name__ == "__main__":
    main()
