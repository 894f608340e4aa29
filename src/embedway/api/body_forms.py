"""What the body of each route has in it: its fields, and which items they name. Knows nothing of HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias

import msgspec

from embedway.api.body_parsing import BodyT
from embedway.api.schemas import (
    AbortRequest,
    Body,
    DetokenizeRequest,
    EmbeddingRequest,
    EncodeRequest,
    LoadAdapterRequest,
    LoadModelRequest,
    TokenizeRequest,
    UnloadAdapterRequest,
    UnloadModelRequest,
)
from embedway.errors import InvalidType, InvalidValue, MediaNotSupported, MissingField
from embedway.inputs.item_columns import MEDIA_FIELDS, parse_columns
from embedway.inputs.item_messages import parse_messages
from embedway.inputs.items import Items, parse_input

if TYPE_CHECKING:
    from embedway.config import Settings
    from embedway.inputs.sequences import SequenceMaker

ReadItems: TypeAlias = tuple[Items, str | None]
"""A request's items, and the instruction that came among them"""


class BodyRules(msgspec.Struct, frozen=True):
    """What the checks need to know of the models and the settings, in any process.

    A body is read before it is known which of several models it names: where they differ these are the most of any.
    """

    max_items: int
    longest_text: int
    """Characters of either end of a text that a tokenizer may look at"""
    max_length: int
    """Tokens of an item"""
    max_request_tokens: int

    @classmethod
    def of(cls, models: Sequence[SequenceMaker], settings: Settings) -> BodyRules:
        return cls(
            max_items=settings.max_items,
            longest_text=max(model.tokenizer.longest_read(model.spec.max_length) for model in models),
            max_length=max(model.spec.max_length for model in models),
            max_request_tokens=settings.max_request_tokens,
        )


def _no_items(body: Body, rules: BodyRules) -> ReadItems:
    raise NotImplementedError(type(body), rules)


@dataclass(frozen=True, slots=True)
class BodyForm(Generic[BodyT]):
    kind: type[BodyT]
    items_of: Callable[[Any, BodyRules], ReadItems] = _no_items
    """Of a parsed body: raises what `parse_input` does, and errors of its own"""
    item_fields: tuple[str, ...] = ()
    """What nobody but `items_of` looks at; none: such a body has no items"""

    is_short: bool = False
    """Longer ones are refused: it has objects that are wanted whole, which a body worker would not send back"""

    @property
    def name(self) -> str:
        return self.kind.__name__


@dataclass(slots=True)  # frozen, it would take a microsecond to make
class ReadBody(Generic[BodyT]):
    fields: BodyT
    """The items' own may be missing"""
    items: Callable[[], ReadItems]
    """Raises what is wrong with them: some routes have something else to say before"""


def _embedding_items(body: EmbeddingRequest, rules: BodyRules) -> ReadItems:
    """What `input` or `messages` asks to embed, and the latter's instruction."""
    for name, kind in MEDIA_FIELDS.items():
        if getattr(body, name) is not None:
            raise InvalidValue(param=name, problem=f"is not read here: give an item of 'input' its '{kind}'")
    if body.messages is None:
        if body.input is None and "input" not in body.model_fields_set:
            raise MissingField(param="input")
        return parse_input(body.input, max_items=rules.max_items), None
    if body.input is not None:
        raise InvalidValue(param="messages", problem="is given together with 'input': send one of them")
    chat = parse_messages(body.messages)
    if chat.instruction is not None and body.prompt is not None:
        raise InvalidValue(param="prompt", problem="is given together with a system message: send one of them")
    return chat


def _encode_items(body: EncodeRequest, rules: BodyRules) -> ReadItems:
    """/encode takes `input_ids`, or `text`, `image_data` and `video_data` in any combination."""
    if body.audio_data is not None:
        raise MediaNotSupported(param="audio_data", kind="audio")
    given = {name: getattr(body, name) for name in ("text", *MEDIA_FIELDS) if getattr(body, name) is not None}
    if body.input_ids is not None:
        for name in given:
            raise InvalidValue(param="input_ids", problem=f"is given together with '{name}': send one of them")
        return parse_input(body.input_ids, max_items=rules.max_items, field="input_ids"), None
    if not given:
        raise MissingField(param="text")
    if "text" in given and len(given) == 1:
        return parse_input(body.text, max_items=rules.max_items, field="text"), None
    return parse_columns(given, max_items=rules.max_items), None


def _texts_to_tokenize(body: TokenizeRequest, rules: BodyRules) -> ReadItems:
    items = parse_input(body.prompt, max_items=rules.max_items, field="prompt")
    items.require_text_only()
    if not items.is_text:
        raise InvalidType(param="prompt", expected="a string or an array of strings", got="token ids")
    return items, None


def _ids_to_detokenize(body: DetokenizeRequest, rules: BodyRules) -> ReadItems:
    items = parse_input(body.tokens, max_items=rules.max_items, field="tokens")
    if items.is_text:
        raise InvalidType(param="tokens", expected="token ids or an array of lists of them", got="text")
    return items, None


EMBEDDING = BodyForm(EmbeddingRequest, _embedding_items, ("input", "messages", *MEDIA_FIELDS))
ENCODE = BodyForm(EncodeRequest, _encode_items, ("text", "input_ids", "audio_data", *MEDIA_FIELDS))
TOKENIZE = BodyForm(TokenizeRequest, _texts_to_tokenize, ("prompt",))
DETOKENIZE = BodyForm(DetokenizeRequest, _ids_to_detokenize, ("tokens",))
LOAD_ADAPTER = BodyForm(LoadAdapterRequest)
UNLOAD_ADAPTER = BodyForm(UnloadAdapterRequest)
LOAD_MODEL = BodyForm(LoadModelRequest, is_short=True)
UNLOAD_MODEL = BodyForm(UnloadModelRequest)
ABORT = BodyForm(AbortRequest)

FORMS: dict[str, BodyForm[Any]] = {
    form.name: form
    for form in (EMBEDDING, ENCODE, TOKENIZE, DETOKENIZE, LOAD_ADAPTER, UNLOAD_ADAPTER, LOAD_MODEL, UNLOAD_MODEL, ABORT)
}
