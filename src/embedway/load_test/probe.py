"""Before the load: is this a server that embeds, and what does it call its model?"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import orjson

from embedway.errors import InvalidSetting, NotMeasurable
from embedway.load_test.client import Answer, Client, NoAnswer
from embedway.load_test.measurement import OK
from embedway.load_test.target import Target

LONGEST_QUOTE = 300
"""Characters of a server's own words in an error"""


async def served_model(client: Client) -> str:
    """The first model that the server lists. Raises NotMeasurable, or InvalidSetting where there is none."""
    target = client.target
    return listed_model(await ask(client, target.head("GET", target.models_path)), target)


def listed_model(answer: Answer, target: Target) -> str:
    """The first one. Raises InvalidSetting."""
    try:
        name = orjson.loads(answer.body)["data"][0]["id"]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        name = None
    if answer.status != OK or not isinstance(name, str):
        what = f"{target.models_path} answers {quote(answer)}"
        raise InvalidSetting(setting="--model", problem=f"must be given, since the server lists no models ({what})")
    return name


async def vector_length(client: Client, request: bytes) -> int:
    """The length of the first vector of an answer. Raises NotMeasurable where there is none."""
    answer = await ask(client, request)
    if answer.status != OK:
        raise NotMeasurable(url=client.target.url, problem=f"it answers {quote(answer)}")
    try:
        return length_of(orjson.loads(answer.body)["data"][0]["embedding"])
    except (orjson.JSONDecodeError, LookupError, TypeError, binascii.Error) as error:
        problem = "it answers 200, but not with vectors as OpenAI's /v1/embeddings does"
        raise NotMeasurable(url=client.target.url, problem=problem) from error


def length_of(vector: object) -> int:
    """Of a list of numbers, or float32 as base64. Raises TypeError or binascii.Error."""
    if isinstance(vector, list):
        return len(vector)
    if isinstance(vector, str):
        return len(base64.b64decode(vector, validate=True)) // 4
    raise TypeError


async def ask(client: Client, request: bytes) -> Answer:
    """Raises NotMeasurable where there is no answer."""
    try:
        return await client.send(request)
    except NoAnswer as error:
        raise NotMeasurable(url=client.target.url, problem=str(error)) from error


def quote(answer: Answer) -> str:
    """Its status, and what it says, in characters that a terminal only shows."""
    said = words_of(answer.body)
    plain = "".join(c if c.isprintable() else " " for c in said)
    shown = plain if len(plain) <= LONGEST_QUOTE else plain[:LONGEST_QUOTE] + "…"
    return f"{answer.status}: {shown}" if shown else str(answer.status)


def words_of(body: bytes) -> str:
    """The message of an error in OpenAI's shape, or in FastAPI's; else the body as it is."""
    try:
        value: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode(errors="replace")
    if isinstance(value, dict):
        error = value.get("error", value.get("detail"))
        message = error.get("message") if isinstance(error, dict) else error
        if isinstance(message, str):
            return message
    return body.decode(errors="replace")
