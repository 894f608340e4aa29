"""A text's token ids by transformers' AutoTokenizer, and where ours differ. Imports transformers when used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embedway.inputs.special_tokens import declared_post_processor
from embedway.models.json_files import read_object
from embedway.models.tokenizer_conversion import load_auto_tokenizer, needs_conversion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedway.inputs.tokenizer import Ids
    from embedway.model_spec import ModelSpec


class AutoTokenizerIds:
    """Texts → ids as the folder's authors had them, cut at the end.

    AutoTokenizer drops `add_bos_token` and `add_eos_token` where there is a `tokenizer.json`; they are put back
    (`inputs/special_tokens.py` has the rule and its reasons).
    """

    def __init__(self, spec: ModelSpec) -> None:
        """Raises UnsupportedCheckpoint."""
        folder = Path(spec.folder)
        self._tokenizer = load_auto_tokenizer(folder)
        self._max_length, self._lowercase = spec.max_length, spec.lowercase
        self.pad_token_id: int | None = self._tokenizer.pad_token_id
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is not None and not needs_conversion(spec):
            config = read_object(folder, "tokenizer_config.json")
            declared_post_processor(backend, config.values if config else {})

    def __call__(self, text: str) -> list[int]:
        given = text.lower() if self._lowercase else text
        return list(self._tokenizer(given, truncation=True, max_length=self._max_length)["input_ids"])


@dataclass(frozen=True, slots=True)
class TokenDifference:
    """A text whose ids differ."""

    text: str
    ours: list[int]
    theirs: list[int]

    def __str__(self) -> str:
        return f"{self.text!r} has the tokens {self.ours} here, but {self.theirs} in AutoTokenizer"


def token_differences(spec: ModelSpec, texts: Sequence[str], ids: Sequence[Ids]) -> list[TokenDifference]:
    """Texts whose ids here are not AutoTokenizer's. Raises UnsupportedCheckpoint where that cannot be loaded."""
    reference = AutoTokenizerIds(spec)
    pairs = [(text, own.tolist(), reference(text)) for text, own in zip(texts, ids, strict=True)]
    return [TokenDifference(text, own, theirs) for text, own, theirs in pairs if own != theirs]
