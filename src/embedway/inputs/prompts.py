"""Which prompt goes before a text, after sentence-transformers' `encode`, `encode_query` and `encode_document`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedway.errors import InvalidValue, UnknownPrompt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedway.inputs.tokenizer import TextTokenizer
    from embedway.model_spec import ModelSpec

INPUT_TYPES: Mapping[str, Sequence[str]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}
"""The names under which a folder may declare the prompt of each input type; the first that is declared counts.

sentence-transformers 6.2 documents these names, but its `encode_document` finds an empty "document" prompt, which it
declares itself, before "passage" or "corpus". We follow the documentation: what the folder declares is used.
"""


def choose_prompt(spec: ModelSpec, *, input_type: str | None, prompt_name: str | None, prompt: str | None) -> str:
    """Return the text to put before each item: empty for none.

    At most one of the three is given: `prompt` is the text itself, `prompt_name` one of the declared names,
    `input_type` a key of INPUT_TYPES, which is no prompt where the folder declares none for it (the default prompt is
    not used either, as in `encode_query`). With none of them it is the default prompt, if the folder declares one.
    Raises InvalidValue or UnknownPrompt.
    """
    if input_type is None and prompt_name is None and prompt is None:
        return spec.prompts.get(spec.default_prompt_name or "", "")
    given = {"input_type": input_type, "prompt_name": prompt_name, "prompt": prompt}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise InvalidValue(param=names[1], problem=f"is given together with '{names[0]}': send one of them")
    if prompt is not None:
        return prompt
    if prompt_name is not None:
        return _declared_prompt(spec, prompt_name)
    assert input_type is not None
    return _prompt_of_type(spec, input_type)


def excluded_tokens(spec: ModelSpec, tokenizer: TextTokenizer, prompt: str) -> int:
    """How many leading tokens of each sequence the pooling leaves out: the prompt's, where the folder says so.

    They are counted as sentence-transformers does: the prompt's own sequence, without a special token at its end.
    Raises TooManyCharacters or InvalidValue.
    """
    if spec.include_prompt or not prompt:
        return 0
    [ids] = tokenizer.encode([prompt], truncate="end", max_length=spec.max_length, param=lambda _: "prompt")
    return len(ids) - (int(ids[-1]) in tokenizer.special_ids)


def _declared_prompt(spec: ModelSpec, name: str) -> str:
    if name not in spec.prompts:
        declared = ", ".join(map(repr, spec.prompts)) or "no prompts"
        raise UnknownPrompt(param="prompt_name", name=name, declared=declared)
    return spec.prompts[name]


def _prompt_of_type(spec: ModelSpec, input_type: str) -> str:
    names = INPUT_TYPES.get(input_type)
    if names is None:
        known = " or ".join(f"'{known}'" for known in INPUT_TYPES)
        raise InvalidValue(param="input_type", problem=f"is {input_type!r}, but it must be {known}")
    return next((spec.prompts[name] for name in names if name in spec.prompts), "")
