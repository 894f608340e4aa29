"""The nouns: a stored file, a batch, how far one has come, and what there may be at most."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from embedway.batches.states import OPEN, Status

if TYPE_CHECKING:
    from embedway.config import Settings

Purpose: TypeAlias = Literal["batch", "batch_output"]

WINDOW_SECONDS = 24 * 3600
"""OpenAI's one completion window, "24h\""""


class Limits(msgspec.Struct, frozen=True):
    file_bytes: int
    """Of an uploaded file"""
    line_bytes: int
    """Of a line, which is a request's body and a little more"""
    requests: int
    """Of a batch"""
    inputs: int
    """Items to embed, of a batch"""
    stored_bytes: int
    """Of all files together"""

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        return cls(
            file_bytes=settings.max_batch_file_mb * 2**20,
            line_bytes=settings.max_body_mb * 2**20,
            requests=settings.max_batch_requests,
            inputs=settings.max_batch_inputs,
            stored_bytes=settings.max_stored_mb * 2**20,
        )


class FileRecord(msgspec.Struct, frozen=True):
    """A row of `files`. Times are Unix seconds. Its bytes lie under its id: `file_folder`."""

    id: str
    owner: str
    purpose: Purpose
    filename: str
    """As the client calls it: only ever shown"""
    bytes: int
    created_at: int
    expires_at: int | None


class BatchError(msgspec.Struct, frozen=True):
    """Why a batch failed, with OpenAI's fields."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None
    """From 1 on; None: the whole file"""


class Progress(msgspec.Struct, frozen=True):
    """What of a batch is done and safe on the disk: all that is behind these lengths is done again."""

    index_bytes: int = 0
    """Of the index: where the first request stands that is not done"""
    output_bytes: int = 0
    error_bytes: int = 0
    """Of the output file and the error file"""
    completed: int = 0
    failed: int = 0
    input_tokens: int = 0


class BatchRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `batches`. Times are Unix seconds."""

    id: str
    owner: str
    status: Status
    input_file_id: str
    metadata: dict[str, str] | None
    output_expires_seconds: int | None
    created_at: int
    expires_at: int
    model: str | None = None
    """As the requests name it; known once the file has been validated, as `total` is"""
    errors: list[BatchError] = []
    total: int = 0
    progress: Progress = Progress()
    output_file_id: str
    error_file_id: str
    """Reserved for it: files of these ids are there once the batch has ended, where there is anything in them"""
    has_output: bool = False
    has_errors: bool = False
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None

    @property
    def is_open(self) -> bool:
        return self.status in OPEN


class OpenBatch(msgspec.Struct, frozen=True):
    """What the runner needs to choose the next one."""

    id: str
    owner: str
    status: Status
    expires_at: int


def new_id(prefix: str) -> str:
    """Nobody can guess it, and it is a file's name whatever the client said."""
    return prefix + secrets.token_hex(16)


def new_file_id() -> str:
    return new_id("file-")


def new_batch_id() -> str:
    return new_id("batch_")
