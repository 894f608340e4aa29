"""Items that come as objects: a text, an image, a video, or some of them together.

`{text?, image?, video?}` is SGLang's form. `{"type": "image_url", "image_url": {"url": …}}` and its kin are the content
parts of OpenAI's and vLLM's chats, and `{"content": [part, …]}` is a message of theirs. Each object is one item, so it
has at most one of each kind. What looks like content and is not understood is refused: nothing is left out in silence.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from embedway.errors import EmptyInput, InvalidType, InvalidValue
from embedway.inputs.json_types import describe_json_type
from embedway.visual import MediaKind, MediaRef

KINDS = ("text", "image", "video")
PART_TYPES = {
    "text": ("text", "text"),
    "input_text": ("text", "text"),
    "image": ("image", "image"),
    "image_url": ("image", "image_url"),
    "input_image": ("image", "image_url"),
    "video": ("video", "video"),
    "video_url": ("video", "video_url"),
    "input_video": ("video", "video_url"),
}
"""A part's `type` → what it is, and the key that has it"""
NOT_UNDERSTOOD = frozenset(
    (
        *(
            "audio",
            "audio_data",
            "audio_url",
            "b64_json",
            "base64",
            "file",
            "image_base64",
            "image_bytes",
            "image_data",
        ),
        *("image_url", "image_urls", "images", "input_audio", "input_image", "input_text", "texts", "url"),
        *("video_data", "video_url", "video_urls", "videos"),
    )
)
"""Other names of content, which must not be ignored as further keys are"""
LONGEST_NAME = 40
"""Characters of a client's word in an error"""


@dataclass(frozen=True, slots=True)
class ObjectItem:
    """An object's content. At least one of its parts is there."""

    text: str | None
    media: tuple[MediaRef, ...]
    """The image before the video, whatever their order in the object: as the models' prompts have them"""


def read_object(value: dict[str, Any], param: str) -> ObjectItem:
    """Raises InvalidType, InvalidValue or EmptyInput, naming the place at fault."""
    found: dict[str, tuple[str, str]] = {}
    for kind, content, place in _contents(value, param):
        if kind in found:
            problem = f"is a second {kind} of one item, which gives one vector: send them as two items"
            raise InvalidValue(param=place, problem=problem)
        found[kind] = content, place
    text, text_place = found.pop("text", (None, param))
    kinds: tuple[MediaKind, ...] = ("image", "video")
    media = tuple(media_ref(kind, *found[kind]) for kind in kinds if kind in found)
    if text == "" and media:
        text = None  # a client with a fixed set of keys
    if text is not None:
        check_text(text, text_place)
    return ObjectItem(text, media)


def media_ref(kind: MediaKind, given: str, param: str) -> MediaRef:
    """Raises EmptyInput."""
    if not given:
        raise EmptyInput(param=param, what="an empty string")
    return MediaRef(kind, given, param)


def check_text(text: str, param: str) -> None:
    # Zero-width characters are no whitespace in Unicode, and tokenizers may well have tokens for them.
    if not text:
        raise EmptyInput(param=param, what="an empty string")
    if text.isspace():
        raise EmptyInput(param=param, what="only whitespace")


def _contents(value: dict[str, Any], param: str) -> list[tuple[str, str, str]]:
    """Kind, content and place of each part."""
    if "type" in value:
        return [_read_part(value, param)]
    if "content" in value:
        return _read_message(value, param)
    return _read_keys(value, param)


def _read_keys(value: dict[str, Any], param: str) -> list[tuple[str, str, str]]:
    """Of `{text?, image?, video?}`; null is the same as leaving a key out."""
    _refuse(NOT_UNDERSTOOD, value, param)
    given = [kind for kind in KINDS if value.get(kind) is not None]
    if not given and any(kind in value for kind in KINDS):
        kind = next(kind for kind in KINDS if kind in value)
        raise InvalidType(param=f"{param}.{kind}", expected="a string", got="null")
    if not given:
        raise InvalidValue(param=param, problem=f"must have 'text', 'image' or 'video', but it {_keys_of(value)}")
    return [(kind, _string(value[kind], f"{param}.{kind}"), f"{param}.{kind}") for kind in given]


def _read_part(value: dict[str, Any], param: str) -> tuple[str, str, str]:
    """Of `{"type": "image_url", "image_url": {"url": …}}` and its kin."""
    name = value["type"]
    if not isinstance(name, str):
        raise InvalidType(param=f"{param}.type", expected="a string", got=describe_json_type(name))
    if name not in PART_TYPES:
        known = ", ".join(PART_TYPES)
        raise InvalidValue(param=f"{param}.type", problem=f"is '{name[:LONGEST_NAME]}', but it must be one of {known}")
    kind, key = PART_TYPES[name]
    if key not in value and kind != "text" and "url" in value:
        key = "url"  # as transformers' chats have it
    _refuse(NOT_UNDERSTOOD.union(KINDS) - {key}, value, param)
    if key not in value:
        raise InvalidValue(param=param, problem=f"must have '{key}', as its type says, but it {_keys_of(value)}")
    content, place = value[key], f"{param}.{key}"
    if isinstance(content, dict) and kind != "text":
        content, place = content.get("url"), f"{place}.url"
    return kind, _string(content, place), place


def _read_message(value: dict[str, Any], param: str) -> list[tuple[str, str, str]]:
    """Of `{"content": [part, …]}`, or `{"content": text}`."""
    _refuse(NOT_UNDERSTOOD.union(KINDS), value, param)
    content, place = value["content"], f"{param}.content"
    if isinstance(content, str):
        return [("text", content, place)]
    if not isinstance(content, list):
        raise InvalidType(param=place, expected="an array of parts or a string", got=describe_json_type(content))
    if not content:
        raise EmptyInput(param=place, what="an empty array")
    parts = []
    for i, part in enumerate(content):
        if not isinstance(part, dict):
            raise InvalidType(param=f"{place}[{i}]", expected="an object", got=describe_json_type(part))
        parts += [_read_part(part, f"{place}[{i}]")] if "type" in part else _read_keys(part, f"{place}[{i}]")
    return parts


def _refuse(keys: AbstractSet[str], value: dict[str, Any], param: str) -> None:
    for key in keys & value.keys():
        if value[key] is not None:
            problem = "is not read: send 'text', 'image' or 'video', or a part whose 'type' says what it is"
            raise InvalidValue(param=f"{param}.{key}", problem=problem)


def _string(value: object, param: str) -> str:
    if not isinstance(value, str):
        raise InvalidType(param=param, expected="a string", got=describe_json_type(value))
    return value


def _keys_of(value: dict[str, Any]) -> str:
    """What an object has instead of the keys that it should: in words, and short whatever the client sent."""
    if not value:
        return "is empty"
    shown = ", ".join(f"'{key[:LONGEST_NAME]}'" for key in list(value)[:5])
    return f"has {shown}" + (f" and {len(value) - 5} more" if len(value) > 5 else "")
