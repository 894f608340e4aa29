"""OpenAI's /v1/files: what batches read and write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response

from embedway.api.batch_access import batches_of, check_life, owner_of
from embedway.api.batch_objects import DeletedFile, FileList, FileObject, file_object, page_object
from embedway.api.list_query import choice_of, in_query, page_of
from embedway.api.uploads import received
from embedway.batches import file_table
from embedway.batches.database import transaction
from embedway.batches.records import FileRecord, new_file_id
from embedway.errors import FileInUse, InvalidValue, MissingField, StorageFull

if TYPE_CHECKING:
    import sqlite3

    from embedway.batches.service import Batches

router = APIRouter(tags=["Files and batches"])

PATH = "/v1/files"
LARGEST_PAGE = 10_000
DEFAULT_LIFE = 30 * 24 * 3600
"""Seconds, of an uploaded file: OpenAI's"""
FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "A request a line: `custom_id`, `method`, `url`, `body`.",
                        },
                        "purpose": {"type": "string", "enum": ["batch"]},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {
                            "type": "integer",
                            "description": "From 3600 to 2592000. Default: 2592000, 30 days.",
                        },
                    },
                }
            }
        },
    }
}
BYTES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
}


@router.post(PATH, summary="Upload a file", openapi_extra=FORM, responses={200: {"model": FileObject}})
async def create_file(request: Request) -> dict[str, Any]:
    batches = batches_of(request)
    await check_room(batches)
    file_id = new_file_id()
    async with received(request, batches.storage, file_id, batches.limits.file_bytes) as upload:
        check_purpose(upload.fields.get("purpose"))
        now = int(batches.clock())
        assert upload.filename is not None, "it has come whole"
        file = FileRecord(
            file_id,
            owner_of(request),
            "batch",
            upload.filename,
            upload.num_bytes,
            now,
            now + life_in(upload.fields),
        )
        await check_room(batches, upload.num_bytes)
        await batches.storage.query(lambda database: file_table.add(database, file))
    return file_object(file)


async def check_room(batches: Batches, num_bytes: int = 1) -> None:
    """Raises StorageFull."""
    if await batches.storage.query(file_table.stored_bytes) + num_bytes > batches.limits.stored_bytes:
        raise StorageFull(problem=f"all files together may have {batches.limits.stored_bytes} bytes (--max-stored-mb)")


def check_purpose(given: str | None) -> None:
    """Raises MissingField or InvalidValue."""
    if given is None:
        raise MissingField(param="purpose")
    if given != "batch":
        raise InvalidValue(param="purpose", problem=f'must be "batch", but it is "{given}"')


def life_in(fields: dict[str, str]) -> int:
    """Seconds. Raises InvalidValue."""
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return DEFAULT_LIFE
    is_number = seconds is not None and seconds.isascii() and seconds.isdigit() and len(seconds) < 10
    return check_life("expires_after", anchor, int(seconds or 0) if is_number else None)


@router.get(
    PATH,
    summary="List files",
    openapi_extra=in_query(
        purpose="batch or batch_output",
        limit=f"1 to {LARGEST_PAGE}",
        after="the id of the last one of the page before",
        order="asc or desc, by creation; default desc",
    ),
    responses={200: {"model": FileList}},
)
async def list_files(request: Request) -> dict[str, Any]:
    batches, owner = batches_of(request), owner_of(request)
    page = page_of(request, default=LARGEST_PAGE, largest=LARGEST_PAGE, is_ordered=True)
    purpose, now = choice_of(request, "purpose", ("batch", "batch_output")), batches.clock()
    found = await batches.storage.query(lambda database: file_table.page(database, owner, page, purpose, now))
    return page_object([file_object(file) for file in found], page.limit)


@router.get(PATH + "/{file_id}", summary="One file", responses={200: {"model": FileObject}})
async def get_file(request: Request, file_id: str) -> dict[str, Any]:
    return file_object(await find_file(request, file_id))


@router.get(PATH + "/{file_id}/content", summary="A file's bytes", responses=BYTES)
async def get_content(request: Request, file_id: str) -> Response:
    file = await find_file(request, file_id)
    storage = batches_of(request).storage
    path = storage.files.path(file.id)
    status = await storage.on_disk(path.stat)
    return FileResponse(path, media_type="application/octet-stream", stat_result=status)


@router.delete(PATH + "/{file_id}", summary="Delete a file", responses={200: {"model": DeletedFile}})
async def delete_file(request: Request, file_id: str) -> dict[str, Any]:
    """A batch that has not ended keeps its input file."""
    batches, owner = batches_of(request), owner_of(request)

    def remove(database: sqlite3.Connection) -> None:
        with transaction(database):
            file_table.find(database, owner, file_id, batches.clock())
            if batch := file_table.user_of(database, file_id):
                raise FileInUse(id=file_id, batch=batch)
            file_table.remove(database, file_id)

    await batches.storage.query(remove)
    await batches.storage.on_disk(lambda: batches.storage.files.remove(file_id))
    return DeletedFile(id=file_id).model_dump()


async def find_file(request: Request, file_id: str) -> FileRecord:
    """Raises UnknownFile."""
    batches, owner = batches_of(request), owner_of(request)
    return await batches.storage.query(lambda database: file_table.find(database, owner, file_id, batches.clock()))
