"""OpenAI's /v1/batches: files of requests, which are answered while there is nothing better to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field

from embedway.api.batch_access import batches_of, check_life, owner_of
from embedway.api.batch_objects import BatchList, BatchObject, batch_object, page_object
from embedway.api.body_forms import BodyForm
from embedway.api.body_reader import read_small_fields
from embedway.api.list_query import in_query, page_of
from embedway.api.schemas import Body, json_request
from embedway.batches import batch_table, file_table
from embedway.batches.database import transaction
from embedway.batches.records import WINDOW_SECONDS, BatchRecord, new_batch_id, new_file_id
from embedway.errors import InvalidType, InvalidValue, ServerOverloaded, UnknownFile
from embedway.inputs.json_types import describe_json_type

if TYPE_CHECKING:
    import sqlite3

router = APIRouter(tags=["Files and batches"])

PATH = "/v1/batches"
LARGEST_PAGE, DEFAULT_PAGE = 100, 20
MAX_PAIRS, LONGEST_KEY, LONGEST_VALUE = 16, 64, 512
"""Of metadata: OpenAI's"""
MAX_OPEN = 1000
"""Batches of one owner that have not ended"""
RETRY_SECONDS = 60


class CreateBatchRequest(Body):
    """`POST /v1/batches`"""

    input_file_id: str = Field(description="A file with purpose batch.")
    endpoint: Literal["/v1/embeddings"]
    completion_window: Literal["24h"]
    metadata: Any = Field(None, description="An object of at most 16 strings: keys of 64 characters, values of 512.")
    output_expires_after: Any = Field(
        None,
        description='`{"anchor": "created_at", "seconds": N}`, from 3600 to 2592000: when the output and error files '
        "are removed. By default they stay.",
    )


CREATE = BodyForm(CreateBatchRequest)


@router.post(
    PATH,
    summary="Have a file of requests worked off",
    openapi_extra=json_request(CreateBatchRequest),
    responses={200: {"model": BatchObject}},
)
async def create_batch(request: Request) -> dict[str, Any]:
    batches, owner = batches_of(request), owner_of(request)
    body = await read_small_fields(request, CREATE)
    now = int(batches.clock())
    batch = BatchRecord(
        id=new_batch_id(),
        owner=owner,
        status="validating",
        input_file_id=body.input_file_id,
        metadata=check_metadata(body.metadata),
        output_expires_seconds=check_output_life(body.output_expires_after),
        created_at=now,
        expires_at=now + WINDOW_SECONDS,
        output_file_id=new_file_id(),
        error_file_id=new_file_id(),
    )

    def add(database: sqlite3.Connection) -> None:
        with transaction(database):
            check_input(database, batch)
            if batch_table.count_open(database, owner) >= MAX_OPEN:
                raise ServerOverloaded(problem=f"{MAX_OPEN} batches have not ended yet", seconds=RETRY_SECONDS)
            batch_table.add(database, batch)

    await batches.storage.query(add)
    batches.woken.set()
    return batch_object(batch)


def check_input(database: sqlite3.Connection, batch: BatchRecord) -> None:
    """Raises UnknownFile or InvalidValue."""
    try:
        file = file_table.find(database, batch.owner, batch.input_file_id, batch.created_at)
    except UnknownFile:
        raise UnknownFile(id=batch.input_file_id, param="input_file_id") from None
    if file.purpose != "batch":
        raise InvalidValue(param="input_file_id", problem=f'has the purpose "{file.purpose}", but must have "batch"')


def check_metadata(given: object) -> dict[str, str] | None:
    """Raises InvalidType or InvalidValue."""
    if given is None:
        return None
    if not isinstance(given, dict):
        raise InvalidType(param="metadata", expected="an object", got=describe_json_type(given))
    if len(given) > MAX_PAIRS:
        raise InvalidValue(param="metadata", problem=f"has {len(given)} pairs, but may have at most {MAX_PAIRS}")
    for key, value in given.items():
        if len(key) > LONGEST_KEY:
            raise InvalidValue(param="metadata", problem=f"has a key of more than {LONGEST_KEY} characters")
        if not isinstance(value, str):
            raise InvalidType(param=f"metadata.{key}", expected="a string", got=describe_json_type(value))
        if len(value) > LONGEST_VALUE:
            raise InvalidValue(param=f"metadata.{key}", problem=f"has more than {LONGEST_VALUE} characters")
    return given


def check_output_life(given: object) -> int | None:
    """Raises InvalidType or InvalidValue."""
    if given is None:
        return None
    if not isinstance(given, dict):
        raise InvalidType(param="output_expires_after", expected="an object", got=describe_json_type(given))
    return check_life("output_expires_after", given.get("anchor"), given.get("seconds"))


@router.get(
    PATH,
    summary="List batches, the newest first",
    openapi_extra=in_query(
        limit=f"1 to {LARGEST_PAGE}; default {DEFAULT_PAGE}", after="the id of the last one of the page before"
    ),
    responses={200: {"model": BatchList}},
)
async def list_batches(request: Request) -> dict[str, Any]:
    batches, owner = batches_of(request), owner_of(request)
    page = page_of(request, default=DEFAULT_PAGE, largest=LARGEST_PAGE)
    found = await batches.storage.query(lambda database: batch_table.page(database, owner, page))
    return page_object([batch_object(batch) for batch in found], page.limit)


@router.get(PATH + "/{batch_id}", summary="One batch", responses={200: {"model": BatchObject}})
async def get_batch(request: Request, batch_id: str) -> dict[str, Any]:
    batches, owner = batches_of(request), owner_of(request)
    return batch_object(await batches.storage.query(lambda database: batch_table.find(database, owner, batch_id)))


@router.post(PATH + "/{batch_id}/cancel", summary="Cancel a batch", responses={200: {"model": BatchObject}})
async def cancel_batch(request: Request, batch_id: str) -> dict[str, Any]:
    """It is `cancelling` until what was under way is written down; what was done by then is in its files."""
    batches, owner = batches_of(request), owner_of(request)
    now = batches.clock()
    batch = await batches.storage.query(lambda database: batch_table.cancel(database, owner, batch_id, now))
    batches.woken.set()
    return batch_object(batch)
