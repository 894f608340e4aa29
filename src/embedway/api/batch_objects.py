"""Files and batches as OpenAI's clients know them: every field of theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field

from embedway.batches.validation import ENDPOINT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedway.batches.records import BatchRecord, FileRecord, Progress

Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]


class FileObject(BaseModel):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int = Field(description="Unix seconds, as all times here.")
    expires_at: int | None
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"] = "processed"
    status_details: None = None


class DeletedFile(BaseModel):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class BatchErrorObject(BaseModel):
    code: str
    message: str
    param: str | None
    line: int | None = Field(description="Of the input file, from 1 on.")


class BatchErrors(BaseModel):
    object: Literal["list"] = "list"
    data: list[BatchErrorObject]


class RequestCounts(BaseModel):
    total: int
    completed: int
    failed: int = Field(description="With an error; those that expired or were cancelled included.")


class InputTokensDetails(BaseModel):
    cached_tokens: int = 0


class OutputTokensDetails(BaseModel):
    reasoning_tokens: int = 0


class BatchUsage(BaseModel):
    input_tokens: int
    input_tokens_details: InputTokensDetails = InputTokensDetails()
    output_tokens: int = 0
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    total_tokens: int


class BatchObject(BaseModel):
    id: str
    object: Literal["batch"] = "batch"
    endpoint: Literal["/v1/embeddings"] = ENDPOINT
    model: str | None = Field(description="Of all its requests; null until they were looked through.")
    errors: BatchErrors | None = Field(description="Of a batch that failed: what is wrong with its file.")
    input_file_id: str
    completion_window: Literal["24h"] = "24h"
    status: Status
    output_file_id: str | None = Field(description="Answers, once the batch has ended and there are any.")
    error_file_id: str | None = Field(description="Requests that got none, likewise.")
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, str] | None


class FileList(BaseModel):
    object: Literal["list"]
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class BatchList(BaseModel):
    object: Literal["list"]
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


def file_object(file: FileRecord) -> dict[str, Any]:
    return FileObject(
        id=file.id,
        bytes=file.bytes,
        created_at=file.created_at,
        expires_at=file.expires_at,
        filename=file.filename,
        purpose=file.purpose,
    ).model_dump()


def batch_object(batch: BatchRecord) -> dict[str, Any]:
    errors = [
        BatchErrorObject(code=error.code, message=error.message, param=error.param, line=error.line)
        for error in batch.errors
    ]
    return BatchObject(
        id=batch.id,
        model=batch.model,
        errors=BatchErrors(data=errors) if errors else None,
        input_file_id=batch.input_file_id,
        status=batch.status,
        output_file_id=batch.output_file_id if batch.has_output else None,
        error_file_id=batch.error_file_id if batch.has_errors else None,
        created_at=batch.created_at,
        in_progress_at=batch.in_progress_at,
        expires_at=batch.expires_at,
        finalizing_at=batch.finalizing_at,
        completed_at=batch.completed_at,
        failed_at=batch.failed_at,
        expired_at=batch.expired_at,
        cancelling_at=batch.cancelling_at,
        cancelled_at=batch.cancelled_at,
        request_counts=_counts(batch.total, batch.progress),
        usage=BatchUsage(input_tokens=batch.progress.input_tokens, total_tokens=batch.progress.input_tokens),
        metadata=batch.metadata,
    ).model_dump()


def page_object(objects: Sequence[dict[str, Any]], limit: int) -> dict[str, Any]:
    """A list of at most `limit`, of which one more was looked for."""
    shown = objects[:limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(objects) > limit,
    }


def _counts(total: int, progress: Progress) -> RequestCounts:
    return RequestCounts(total=total, completed=progress.completed, failed=progress.failed)
