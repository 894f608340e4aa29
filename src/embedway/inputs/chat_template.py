"""A model's chat template in Jinja, set up as transformers does: the form of an item → the prompt around its text.

Users' words are never rendered. They stand as single marks in the prompt and are put in later, as tokens of plain text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

if TYPE_CHECKING:
    from typing import NoReturn

    from jinja2 import Template

    from embedway.visual import MediaKind

TEXT_MARK, INSTRUCTION_MARK = "\ue000", "\ue001"
"""Characters for private use: no template writes them, and trimming leaves them."""


@dataclass(frozen=True, slots=True)
class Form:
    """What an item consists of."""

    kinds: tuple[MediaKind, ...]
    """Its images and videos, in order; the text comes after them, as SGLang has it"""
    has_text: bool
    has_instruction: bool


class TemplateProblem(Exception):
    """The template cannot write a prompt; str() says why, as the end of a sentence about the template."""


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """Compiled. Safe to share between threads."""

    template: Template

    @classmethod
    def compile(cls, source: str) -> ChatTemplate:
        """Raises TemplateProblem."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = to_json
        try:
            return cls(environment.from_string(source, globals=FUNCTIONS))
        except TemplateError as error:
            raise TemplateProblem(f"is no valid Jinja: {error}") from error

    def render(self, form: Form) -> str:
        """The prompt for an answer, with each mark once. Raises TemplateProblem."""
        parts: list[dict[str, str]] = [{"type": kind} for kind in form.kinds]
        parts += [{"type": "text", "text": TEXT_MARK}] if form.has_text else []
        messages: list[dict[str, object]] = [{"role": "user", "content": parts}]
        if form.has_instruction:
            system = [{"type": "text", "text": INSTRUCTION_MARK}]
            messages.insert(0, {"role": "system", "content": system})
        try:
            prompt = self.template.render(messages=messages, tools=None, documents=None, add_generation_prompt=True)
        except Exception as error:  # whatever a foreign template raises
            raise TemplateProblem(f"fails: {error}") from error
        for mark, wanted, what in (
            (TEXT_MARK, form.has_text, "text"),
            (INSTRUCTION_MARK, form.has_instruction, "instruction"),
        ):
            if prompt.count(mark) != wanted:
                raise TemplateProblem(f"takes no {what}, or writes it more than once")
        return prompt


def to_json(value: object, ensure_ascii: bool = False, indent: int | None = None) -> str:
    """Jinja's own filter escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def strftime_now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)


FUNCTIONS = {"raise_exception": raise_exception, "strftime_now": strftime_now}
"""What transformers lets templates call"""
