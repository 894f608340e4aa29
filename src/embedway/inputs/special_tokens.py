"""Which special tokens a text gets: `tokenizer.json` and `tokenizer_config.json` together.

The rule:

1. The post-processor of `tokenizer.json` decides (Qwen3-Embedding: it adds the final `<|endoftext|>`).
2. `add_bos_token` and `add_eos_token` in `tokenizer_config.json` win over it where all of this holds: the flag is
   true or false (missing or null: as `tokenizer.json` has it), `tokenizer_class` is one whose fast tokenizer obeyed
   the flags in transformers 4 (`OBEYING`), and the token is in the vocabulary. This is e5-mistral-7b-instruct and the
   embedders made from it: class LlamaTokenizer, `add_eos_token: true`, pooled at that EOS.
3. A folder that brings a tokenizer class of its own (`auto_map`) and sets a flag to true has written the flag for
   that class: the token is added. False is not obeyed there.
4. In every other class the flags do nothing: neither transformers 4 nor 5 obeys them in, say, Qwen2Tokenizer or
   PreTrainedTokenizerFast, so the folder's vectors were made without them.

transformers 5.23's AutoTokenizer drops both flags whenever the folder has a `tokenizer.json`, whatever the class
(`PreTrainedTokenizerBase._from_pretrained`), and does not write them when it saves. So rules 1 and 4 are what it
does, and under rules 2 and 3 it obeys only a flag that `tokenizer.json` agrees with: sentence-transformers 6.2 feeds
such a folder without its EOS, though the folder declares it. Without a `tokenizer.json` it obeys the flags, and
`models/tokenizer_conversion.py` writes what they say into the converted file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenizers.processors import TemplateProcessing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenizers import Tokenizer

OBEYING: Mapping[str, tuple[str, str]] = {
    "LlamaTokenizer": ("<s>", "</s>"),
    "CodeLlamaTokenizer": ("<s>", "</s>"),
    "GemmaTokenizer": ("<bos>", "<eos>"),
    "CohereTokenizer": ("<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>"),
}
"""Classes whose fast tokenizer replaced the post-processor by the flags in transformers 4, with their BOS and EOS."""


def declared_post_processor(tokenizer: Tokenizer, tokenizer_config: Mapping[str, Any]) -> None:
    """Make `tokenizer` add the special tokens that its folder declares: the rule at the top of this module.

    `tokenizer` is `tokenizer.json` as loaded and is changed in place; `tokenizer_config` is `tokenizer_config.json`,
    or empty where there is none. Nothing is raised, and a second call changes nothing.
    """
    bos, eos = _tokens(tokenizer_config)
    has_bos, has_eos = _added_now(tokenizer, bos, eos)
    wants_bos = _wanted(tokenizer, tokenizer_config, "add_bos_token", bos, has_bos)
    wants_eos = _wanted(tokenizer, tokenizer_config, "add_eos_token", eos, has_eos)
    if (wants_bos, wants_eos) == (has_bos, has_eos):
        return
    first = [bos] if wants_bos and bos else []
    last = [eos] if wants_eos and eos else []
    second = [f"{piece}:1" for piece in (*first, "$B", *last)]
    tokenizer.post_processor = TemplateProcessing(
        single=[*first, "$A", *last],
        pair=[*first, "$A", *last, *second],
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in dict.fromkeys((*first, *last))],
    )


def _tokens(tokenizer_config: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """BOS and EOS as the folder names them, or as its class does."""
    default_bos, default_eos = OBEYING.get(_tokenizer_class(tokenizer_config), (None, None))
    return (
        _content(tokenizer_config.get("bos_token", default_bos)),
        _content(tokenizer_config.get("eos_token", default_eos)),
    )


def _content(token: object) -> str | None:
    """A token is written as a string, or as an object with its `content`."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) and token else None


def _tokenizer_class(tokenizer_config: Mapping[str, Any]) -> str:
    return str(tokenizer_config.get("tokenizer_class") or "").removesuffix("Fast")


def _added_now(tokenizer: Tokenizer, bos: str | None, eos: str | None) -> tuple[bool, bool]:
    """Whether the post-processor of `tokenizer` puts BOS first and EOS last (the mask marks only what it added)."""
    encoding = tokenizer.encode("a")
    added = [token if mark else None for token, mark in zip(encoding.tokens, encoding.special_tokens_mask, strict=True)]
    if not added:
        return False, False
    return bos is not None and added[0] == bos, eos is not None and added[-1] == eos


def _wanted(tokenizer: Tokenizer, config: Mapping[str, Any], flag: str, token: str | None, has_it: bool) -> bool:
    value = config.get(flag)
    if not isinstance(value, bool) or token is None or tokenizer.token_to_id(token) is None:
        return has_it
    if _tokenizer_class(config) in OBEYING:
        return value
    return has_it or (value and _brings_its_own_class(config))


def _brings_its_own_class(tokenizer_config: Mapping[str, Any]) -> bool:
    auto_map = tokenizer_config.get("auto_map")
    return bool(auto_map.get("AutoTokenizer")) if isinstance(auto_map, dict) else isinstance(auto_map, list)
