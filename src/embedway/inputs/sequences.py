"""Items → packed sequences: prompts, tokens, limits. What the HTTP routes and the Python API have in common.

A vision-language model's sequence is a prompt (`chat_prompt.py`); a dual encoder's is an item's text, and then a place
for each position of its images and videos.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from embedway.errors import ContextLengthExceeded, InvalidValue, TooManyCharacters
from embedway.inputs.items import Items
from embedway.inputs.prompts import choose_prompt, excluded_tokens
from embedway.inputs.request_budget import RequestBudget
from embedway.inputs.token_ids import check_token_ids
from embedway.inputs.tokenizer import TextTokenizer, Truncate, max_item_characters
from embedway.model_spec import ModelSpec
from embedway.packed_sequences import PackedSequences
from embedway.visual import VISUAL_TOKEN, Visual

if TYPE_CHECKING:
    from embedway.inputs.chat_prompt import ChatPrompt

Ids = npt.NDArray[np.int32]
CHARACTERS_PER_TOKEN, SPECIAL_TOKENS, MEDIA_TOKENS = 4, 2, 256
"""Of usual English texts, an item, and an image of usual size"""
CHARACTERS_OF_MEDIA = 1000
"""Writing the prompt of an item with an image takes as long as tokenizing so many characters."""
QUICK_WORK, QUICK_ITEMS = 4096, 64
"""Characters or token ids, and items, that are gone through in 2 ms, whatever they are: most texts take a quarter"""
FASTER, FASTER_IF_ASCII = 2, 8
"""Times as many characters, where there is a faster tokenizer"""
NO_VISUALS: Mapping[int, tuple[Visual, ...]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class InputOptions:
    """What a request says about how its items are to be read."""

    input_type: str | None = None
    prompt_name: str | None = None
    prompt: str | None = None
    truncate: Truncate = "none"


@dataclass(frozen=True, slots=True)
class SequenceMaker:
    """Makes sequences for one model, within the limits of a request. Safe to share between threads."""

    spec: ModelSpec
    tokenizer: TextTokenizer
    max_request_tokens: int
    chat: ChatPrompt | None = None
    """Of a vision-language model"""

    @classmethod
    def load(cls, spec: ModelSpec, *, max_request_tokens: int) -> SequenceMaker:
        """Raises UnsupportedCheckpoint where the tokenizer cannot be read, InvalidSetting for a bad chat template."""
        tokenizer = TextTokenizer.load(spec)
        if spec.vision is None or spec.vision.chat is None:
            return cls(spec, tokenizer, max_request_tokens)
        from embedway.inputs.chat_prompt import ChatPrompt  # it needs Jinja, which text models do without

        return cls(spec, tokenizer, max_request_tokens, ChatPrompt.load(spec, tokenizer))

    def work(self, items: Items, options: InputOptions) -> int:
        """How many characters, or token ids, `make` is about to go through: small requests need no thread.

        Raises UnknownPrompt or InvalidValue, as `make` does.
        """
        of_media = CHARACTERS_OF_MEDIA * len(items.media)
        return items.size + of_media + (len(items) * len(self._prompt(options)) if items.is_text else 0)

    def is_quick(self, items: Items, work: int) -> bool:
        """Whether `make` takes less than a thread would cost, and holds nobody up; `work` is its result."""
        limit = QUICK_WORK
        if items.is_text and self.tokenizer.fast is not None and work > limit:
            limit *= FASTER_IF_ASCII if all(map(str.isascii, items.texts)) else FASTER
        return work <= limit and len(items) <= QUICK_ITEMS

    def estimate(self, items: Items, work: int) -> int:
        """About how many tokens `make` will give, before anybody has looked at the items; `work` is their size."""
        if not items.is_text:
            return min(work, self.max_request_tokens)
        num_media = sum(map(len, items.media.values()))
        tokens = work // CHARACTERS_PER_TOKEN + SPECIAL_TOKENS * len(items) + MEDIA_TOKENS * num_media
        return min(tokens, len(items) * self.spec.max_length, self.max_request_tokens)

    def make(
        self, items: Items, options: InputOptions, visuals: Mapping[int, tuple[Visual, ...]] = NO_VISUALS
    ) -> PackedSequences:
        """Tokenize the texts, or check the token ids, of one request.

        `visuals` are what `items.media` became. Time and memory are bounded by `max_request_tokens`, whatever the
        request's size. Raises UnknownPrompt, InvalidValue, InvalidTokenId, ContextLengthExceeded, TooManyTokens or
        TooManyCharacters.
        """
        if not items.is_text:
            return self._of_token_ids(items, options)
        if self.chat is not None:
            return self._of_prompts(items, options, visuals, self.chat)
        return self._of_media(items, options, visuals) if visuals else self._of_texts(items, options)

    def tokens_of(self, items: Items, *, add_special_tokens: bool) -> list[Ids]:
        """All the ids of texts, also beyond the model's limit. Raises TooManyCharacters or InvalidValue."""
        limit = max_item_characters(self.spec.max_length)
        for i, text in enumerate(items.texts):
            if len(text) > limit:
                raise TooManyCharacters(param=items.param(i), limit=limit, scope="an item")
        self._budget(items).read(items.size)
        return self.tokenizer.encode_whole(items.texts, add_special_tokens=add_special_tokens, param=items.param)

    def texts_of(self, items: Items, *, skip_special_tokens: bool) -> list[str]:
        """The texts of token ids. Raises InvalidTokenId or TooManyTokens."""
        self._budget(items).check_tokens(items.size)
        lists = [self._check(items, i, limit=len(ids), truncate="none") for i, ids in enumerate(items.token_ids)]
        return [self.tokenizer.detokenize(ids.tolist(), skip_special_tokens=skip_special_tokens) for ids in lists]

    def _of_texts(self, items: Items, options: InputOptions) -> PackedSequences:
        prompt = self._prompt(options)
        pool_start = excluded_tokens(self.spec, self.tokenizer, prompt)
        # Cut at its start, a text has lost its prompt, so that the pooling would leave out tokens of the text.
        must_fit = pool_start > 0 and options.truncate == "start"
        try:
            truncate = "none" if must_fit else options.truncate
            ids = self._encode(items.texts, prompt, truncate, items.param, self._budget(items))
        except ContextLengthExceeded as error:
            if not must_fit:
                raise
            problem = f"is 'start', which would cut off the prompt of '{error.param}', but this model's pooling"
            problem += " leaves out as many leading tokens as the prompt has: choose 'end' or send a shorter item"
            raise InvalidValue(param="truncate", problem=problem) from error
        return PackedSequences.of(ids, pool_start=pool_start)

    def _of_media(
        self, items: Items, options: InputOptions, visuals: Mapping[int, tuple[Visual, ...]]
    ) -> PackedSequences:
        with_text = [i for i, text in enumerate(items.texts) if text]
        texts, budget = [items.texts[i] for i in with_text], self._budget(items)
        ids = self._encode(texts, self._prompt(options), options.truncate, lambda j: items.param(with_text[j]), budget)
        places = {i: [np.full(v.num_tokens, VISUAL_TOKEN, np.int32) for v in own] for i, own in visuals.items()}
        parts = dict(zip(with_text, ([own] for own in ids), strict=True))
        sequences = [np.concatenate(parts.get(i, []) + places.get(i, [])) for i in range(len(items))]
        budget.check_tokens(sum(map(len, sequences)))
        return replace(PackedSequences.of(sequences), visuals=visuals)

    def _of_prompts(
        self, items: Items, options: InputOptions, visuals: Mapping[int, tuple[Visual, ...]], chat: ChatPrompt
    ) -> PackedSequences:
        instruction, budget, limit = self._prompt(options), self._budget(items), self.spec.max_length
        of_text = [i for i in range(len(items)) if i not in visuals]
        sequences: dict[int, Ids] = {}
        if of_text:
            ids = chat.ids_of_texts(
                [items.texts[i] for i in of_text],
                instruction=instruction,
                truncate=options.truncate,
                max_length=limit,
                param=lambda j: items.param(of_text[j]),
                budget=budget,
            )
            sequences.update(zip(of_text, ids, strict=True))
        for i, own in visuals.items():
            sequences[i] = chat.ids(
                items.texts[i] or None,
                own,
                instruction=instruction,
                truncate=options.truncate,
                max_length=limit,
                param=items.param(i),
                budget=budget,
            )
        budget.check_tokens(sum(map(len, sequences.values())))
        return replace(PackedSequences.of([sequences[i] for i in range(len(items))]), visuals=visuals)

    def _encode(
        self,
        texts: Sequence[str],
        prompt: str,
        truncate: Truncate,
        param: Callable[[int], str],
        budget: RequestBudget,
    ) -> list[Ids]:
        return self.tokenizer.encode(
            texts, prompt=prompt, truncate=truncate, max_length=self.spec.max_length, param=param, budget=budget
        )

    def _of_token_ids(self, items: Items, options: InputOptions) -> PackedSequences:
        """Ids are used as they are: nothing is put before them."""
        for param in ("prompt", "prompt_name", "input_type"):
            if getattr(options, param) is not None:
                raise InvalidValue(param=param, problem="is given, but the items are token ids, which get no prompt")
        limit = self.spec.max_length
        num_tokens = sum(min(len(ids), limit) for ids in items.token_ids)
        is_all = options.truncate != "none" or num_tokens == items.size
        self._budget(items).check_tokens(num_tokens, is_all=is_all)
        sequences = [self._check(items, i, limit=limit, truncate=options.truncate) for i in range(len(items))]
        if self.chat is not None:
            for i, ids in enumerate(sequences):
                self.chat.check_token_ids(ids, items.param(i))
        return PackedSequences.of(sequences)

    def _prompt(self, options: InputOptions) -> str:
        return choose_prompt(
            self.spec, input_type=options.input_type, prompt_name=options.prompt_name, prompt=options.prompt
        )

    def _budget(self, items: Items) -> RequestBudget:
        return RequestBudget(items.field, self.max_request_tokens)

    def _check(self, items: Items, i: int, *, limit: int, truncate: Truncate) -> Ids:
        return check_token_ids(
            items.token_ids[i],
            param=items.param(i),
            vocab_size=self.spec.vocab_size,
            max_length=limit,
            truncate=truncate,
            leading=self.tokenizer.leading,
            trailing=self.tokenizer.trailing,
        )
