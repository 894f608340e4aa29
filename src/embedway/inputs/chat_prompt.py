"""A vision-language model's prompt: text, images and videos of an item → token ids, through the chat template.

The template's special tokens become ids here, by name; texts are tokenized as plain text whatever they spell, together
with the template's words that touch them. A placeholder is repeated for every token that its image or video takes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import numpy as np

from embedway.errors import InvalidSetting, InvalidValue, PlaceholderTokenId
from embedway.inputs.chat_template import ChatTemplate, Form, TemplateProblem
from embedway.inputs.prompt_parts import Hole, PromptReader, fill
from embedway.inputs.text_place import TextPlace, too_long

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embedway.inputs.prompt_parts import Part, TemplatePart
    from embedway.inputs.request_budget import RequestBudget
    from embedway.inputs.tokenizer import Ids, TextTokenizer, Truncate
    from embedway.model_spec import ChatSpec, ModelSpec
    from embedway.visual import Visual

KEPT_PLACES = 64
"""Prompts around a text alone that are kept tokenized: one for each instruction in use"""
LONGEST_KEPT = 4096
"""Characters of an instruction whose prompt is kept"""
SAMPLE_FORMS = (
    Form((), has_text=True, has_instruction=False),
    Form(("image",), has_text=False, has_instruction=False),
    Form(("video",), has_text=True, has_instruction=False),
)


@dataclass(frozen=True, slots=True)
class PromptWriter:
    """Fills one model's template. Safe to share between threads."""

    chat: ChatSpec
    tokenizer: TextTokenizer
    template: ChatTemplate
    reader: PromptReader
    frames_per_step: int

    def template_parts(self, form: Form) -> tuple[TemplatePart, ...]:
        """Raises TemplateProblem."""
        parts = self.reader.read(self.template.render(form))
        shown = [part.value for part in parts if part in (Hole.IMAGE, Hole.VIDEO)]
        if shown != list(form.kinds):
            raise TemplateProblem(f"has placeholders for {shown or 'nothing'}, but the item has {list(form.kinds)}")
        return parts

    def parts(self, instruction: str, visuals: tuple[Visual, ...], *, has_text: bool, param: str) -> list[Part]:
        """Raises InvalidValue where the template has no place for such an item."""
        form = Form(tuple(visual.kind for visual in visuals), has_text, has_instruction=bool(instruction))
        try:
            parts = self.template_parts(form)
        except TemplateProblem as error:
            problem = f"does not fit into this model's prompt: its chat template {error}"
            raise InvalidValue(param="prompt" if instruction else param, problem=problem) from error
        return fill(parts, instruction, visuals, self.chat, self.frames_per_step)

    def text_place(self, instruction: str, visuals: tuple[Visual, ...], param: str) -> TextPlace:
        parts = self.parts(instruction, visuals, has_text=True, param=param)
        i = next(i for i, part in enumerate(parts) if part is Hole.TEXT)
        head, tail = parts[:i], parts[i + 1 :]
        before = head.pop() if head and isinstance(head[-1], str) else ""
        after = tail.pop(0) if tail and isinstance(tail[0], str) else ""
        return TextPlace(
            tokenizer=self.tokenizer,
            leading=np.concatenate([self.tokenizer.leading, *self.encoded(head)]),
            before=cast("str", before),
            after=cast("str", after),
            trailing=np.concatenate([*self.encoded(tail), self.tokenizer.trailing]),
            before_ids=np.concatenate(self.encoded([before])),
            after_ids=np.concatenate(self.encoded([after])),
        )

    def encoded(self, parts: Sequence[Part]) -> list[Ids]:
        """Of parts without a hole. Raises InvalidValue for an instruction that is not Unicode."""
        words = [part for part in parts if isinstance(part, str)]
        ids = iter(self.tokenizer.encode_whole(words, add_special_tokens=False, param=lambda _: "prompt"))
        return [next(ids) if isinstance(part, str) else cast("Ids", part) for part in parts]


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """Makes one model's sequences. Safe to share between threads."""

    writer: PromptWriter
    kept_place: Callable[[str], TextPlace] = field(repr=False)
    """An instruction → the place of a text alone, out of a bounded cache"""

    @classmethod
    def load(cls, spec: ModelSpec, tokenizer: TextTokenizer) -> ChatPrompt:
        """Of a model whose `vision.chat` is there. Raises InvalidSetting where the template cannot write a prompt."""
        assert spec.vision is not None
        assert spec.vision.chat is not None
        chat = spec.vision.chat
        reader = PromptReader.of(chat, tokenizer.tokenizer)
        try:
            template = ChatTemplate.compile(chat.template)
            writer = PromptWriter(chat, tokenizer, template, reader, spec.vision.video.pixels.temporal_patch_size)
            for form in SAMPLE_FORMS:
                writer.template_parts(form)
        except TemplateProblem as error:
            raise InvalidSetting(setting="--chat-template", problem=f"the chat template {error}") from error
        return cls(writer, lru_cache(KEPT_PLACES)(lambda instruction: writer.text_place(instruction, (), "input")))

    def ids(
        self,
        text: str | None,
        visuals: tuple[Visual, ...],
        *,
        instruction: str = "",
        truncate: Truncate,
        max_length: int,
        param: str,
        budget: RequestBudget | None = None,
    ) -> Ids:
        """Return the int32 ids of one item, at most `max_length`: only its text may be cut.

        Raises ContextLengthExceeded, InvalidValue (named `prompt` where there is an instruction), and what
        `TextPlace.encode` raises.
        """
        if text is None:
            parts = self.writer.parts(instruction, visuals, has_text=False, param=param)
            tokenizer = self.writer.tokenizer
            ids = np.concatenate([tokenizer.leading, *self.writer.encoded(parts), tokenizer.trailing])
            if len(ids) > max_length:
                raise too_long(param, len(ids), max_length)
            return self._checked(ids, visuals, param)
        place = self._place(instruction, visuals, param)
        [ids] = place.encode([text], truncate=truncate, max_length=max_length, param=lambda _: param, budget=budget)
        return self._checked(ids, visuals, param)

    def ids_of_texts(
        self,
        texts: Sequence[str],
        *,
        instruction: str = "",
        truncate: Truncate,
        max_length: int,
        param: Callable[[int], str] = "input[{}]".format,
        budget: RequestBudget | None = None,
    ) -> list[Ids]:
        """The same for items of text alone, tokenized together."""
        place = self._place(instruction, (), param(0))
        sequences = place.encode(texts, truncate=truncate, max_length=max_length, param=param, budget=budget)
        return [self._checked(ids, (), param(i)) for i, ids in enumerate(sequences)]

    def check_token_ids(self, ids: Ids, param: str) -> None:
        """Refuse a client's own ids that stand for pixels, which cannot come with them: PlaceholderTokenId."""
        places = np.flatnonzero(self._is_placeholder(ids))
        if len(places):
            raise PlaceholderTokenId(param=f"{param}[{places[0]}]", token_id=int(ids[places[0]]))

    def _place(self, instruction: str, visuals: tuple[Visual, ...], param: str) -> TextPlace:
        if not visuals and len(instruction) <= LONGEST_KEPT:
            return self.kept_place(instruction)
        return self.writer.text_place(instruction, visuals, param)

    def _checked(self, ids: Ids, visuals: tuple[Visual, ...], param: str) -> Ids:
        """A tokenizer whose placeholders are not marked as special would find them in a text."""
        if int(self._is_placeholder(ids).sum()) != sum(visual.num_tokens for visual in visuals):
            raise InvalidValue(param=param, problem="spells a token that stands for a part of an image or video")
        return ids

    def _is_placeholder(self, ids: Ids) -> np.ndarray:
        chat = self.writer.chat
        return (ids == chat.image_token_id) | (ids == chat.video_token_id)
