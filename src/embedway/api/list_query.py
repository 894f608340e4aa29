"""The query of a list: how many, behind which one, in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedway.batches.file_table import Page
from embedway.errors import InvalidValue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastapi import Request


def page_of(request: Request, *, default: int, largest: int, is_ordered: bool = False) -> Page:
    """Raises InvalidValue."""
    query = request.query_params
    given = query.get("limit", str(default))
    if not (given.isascii() and given.isdigit() and len(given) < 10 and 1 <= int(given) <= largest):
        raise InvalidValue(param="limit", problem=f"must be a number from 1 to {largest}")
    order = choice_of(request, "order", ("asc", "desc")) if is_ordered else None
    return Page(int(given), query.get("after") or None, is_ascending=order == "asc")


def choice_of(request: Request, name: str, choices: Sequence[str]) -> str | None:
    """One of these, or None where it is not given. Raises InvalidValue."""
    given = request.query_params.get(name)
    if given is not None and given not in choices:
        raise InvalidValue(param=name, problem=f"must be one of {', '.join(choices)}")
    return given


def in_query(**names: str) -> dict[str, Any]:
    """`openapi_extra` of a route that reads these by hand: each name and what it is."""
    return {
        "parameters": [
            {"name": name, "in": "query", "required": False, "description": text, "schema": {"type": "string"}}
            for name, text in names.items()
        ]
    }
