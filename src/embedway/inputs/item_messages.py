"""vLLM's form of one item: the `messages` of a chat, of which a user's is embedded.

A system message before it is the instruction; an assistant's after it may be there, but empty: every prompt here ends
with the beginning of an answer anyway.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from embedway.errors import EmptyInput, InvalidType, InvalidValue
from embedway.inputs.item_objects import read_object
from embedway.inputs.items import Items
from embedway.inputs.json_types import describe_json_type

FIELD = "messages"
ROLES = ("system", "user", "assistant")


class Chat(NamedTuple):
    item: Items
    """The user's message"""
    instruction: str | None


def parse_messages(value: object) -> Chat:
    """Raises InvalidType, InvalidValue or EmptyInput, naming the place at fault."""
    if not isinstance(value, list):
        raise InvalidType(param=FIELD, expected="an array of messages", got=describe_json_type(value))
    if not value:
        raise EmptyInput(param=FIELD, what="an empty array")
    roles = [_role(message, f"{FIELD}[{i}]") for i, message in enumerate(value)]
    if roles not in (["user"], ["system", "user"], ["user", "assistant"], ["system", "user", "assistant"]):
        problem = "must be one user's message, after a system message or none: it is one item, which gives one vector"
        raise InvalidValue(param=FIELD, problem=problem)
    parts = {role: (message, f"{FIELD}[{i}]") for i, (role, message) in enumerate(zip(roles, value, strict=True))}
    if "assistant" in parts:
        _check_empty(*parts["assistant"])
    item = read_object(*parts["user"])
    media = {0: item.media} if item.media else {}
    items = Items([item.text or ""], [], parts["user"][1], is_single=True, key=".content", media=media)
    return Chat(items, _text_of(*parts["system"]) if "system" in parts else None)


def _role(message: object, param: str) -> str:
    if not isinstance(message, dict):
        raise InvalidType(param=param, expected="an object", got=describe_json_type(message))
    role = message.get("role")
    if role not in ROLES:
        raise InvalidValue(param=f"{param}.role", problem=f"must be one of {', '.join(ROLES)}")
    if message.get("content") is None:
        raise InvalidValue(param=param, problem="must have 'content'")
    return role


def _text_of(message: dict[str, Any], param: str) -> str | None:
    if message["content"] == "":
        return None
    read = read_object(message, param)
    if read.text is None or read.media:
        raise InvalidValue(param=f"{param}.content", problem="must be a text")
    return read.text


def _check_empty(message: dict[str, Any], param: str) -> None:
    content = message["content"]
    parts = content if isinstance(content, list) else [{"text": content}]
    if any(not isinstance(part, dict) or part.get("text") != "" for part in parts):
        raise InvalidValue(param=f"{param}.content", problem="must be empty: an answer is not embedded")
