"""A tokenizer of an older kind → `tokenizer.json`, and a check of ours against transformers' AutoTokenizer.

Run as `python -m embedway.models.tokenizer_conversion FOLDER TARGET`: the caller stays free of transformers, whose
import takes seconds and some hundred megabytes. Without a `tokenizer.json` AutoTokenizer (5.23) obeys `add_bos_token`
and `add_eos_token`, so the converted file adds what the folder declares.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers

from embedway.errors import StartupError, TorchNotInstalled, UnsupportedCheckpoint
from embedway.models.json_files import read_object

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from embedway.model_spec import ModelSpec

SAMPLES = (
    "The quick brown fox jumps over the lazy dog.",
    "",
    " two  spaces,\ttabs\nand\r\nlines  ",
    "Grüße aus Köln; l'été déjà fini; ¿qué tal, señor?",
    "Съешь же ещё этих мягких французских булок",
    "自然语言处理 日本語のテキスト 한국어 문장",
    "مرحبا بالعالم שלום עולם नमस्ते दुनिया สวัสดี",
    "emoji 👩‍👩‍👧‍👦 🇫🇷 👍🏽 and ligatures ﬁ ﬀ ½ ①",
    "def f(x: int) -> str:\n    return f'{x!r}'  # 100% of `it`",
    "e\u0301 is not \u00e9; a soft\u00adhyphen, a zero\u200bwidth space, a \u00a0 no-break one",
    "https://example.org/a?b=c&d=1,234.56 #tag @name UPPERCASE mixedCase",
    "specials: [CLS] [SEP] [MASK] <s> </s> <pad> <unk> <mask> <|endoftext|> <|im_start|> <bos> <eos>",
)


def needs_conversion(spec: ModelSpec) -> bool:
    """True where the model has no `tokenizer.json`."""
    return not Path(spec.tokenizer_folder, "tokenizer.json").is_file()


def convert(folder: str | Path, target: str | Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` of the tokenizer in `folder` to `target`, which is made.

    Imports transformers. Raises UnsupportedCheckpoint where transformers has no fast tokenizer for it, or where the
    file that it writes gives other ids than it does.
    """
    tokenizer = load_auto_tokenizer(folder)
    tokenizer.save_pretrained(str(target))
    if not Path(target, "tokenizer.json").is_file():
        kind = type(tokenizer).__name__
        raise UnsupportedCheckpoint(folder=folder, problem=f"its tokenizer ({kind}) has no form as a tokenizer.json")
    made = tokenizers.Tokenizer.from_file(str(Path(target, "tokenizer.json")))
    made.no_truncation()
    made.no_padding()
    if problem := difference(folder, lambda text: made.encode(text).ids):
        raise UnsupportedCheckpoint(folder=folder, problem=f"its tokenizer.json, made anew, is not the same: {problem}")


def difference(
    folder: str | Path,
    ids_of: Callable[[str], list[int]],
    *,
    declare: Callable[[tokenizers.Tokenizer, Mapping[str, Any]], None] | None = None,
) -> str | None:
    """Compare `ids_of` (a text's token ids, special tokens included) with AutoTokenizer's on sample texts.

    Returns a sentence about the first text that differs, or None. AutoTokenizer drops `add_bos_token` and
    `add_eos_token` where there is a `tokenizer.json`; `declare` (`inputs.special_tokens.declared_post_processor`) puts
    them back before the comparison. Imports transformers; raises UnsupportedCheckpoint where it cannot load the
    tokenizer.
    """
    tokenizer = load_auto_tokenizer(folder)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if declare is not None and backend is not None:
        config = read_object(Path(folder), "tokenizer_config.json")
        declare(backend, config.values if config else {})
    for text in SAMPLES:
        ours, theirs = list(ids_of(text)), list(tokenizer(text)["input_ids"])
        if ours != theirs:
            return f"{text!r} has the tokens {ours} here, but {theirs} in transformers' {type(tokenizer).__name__}"
    return None


def load_auto_tokenizer(folder: str | Path) -> Any:
    """AutoTokenizer of a local folder. It prints and warns a lot, but raises nothing of one kind.

    Raises UnsupportedCheckpoint, or TorchNotInstalled where transformers is missing.
    """
    try:
        from transformers import AutoTokenizer
    except ModuleNotFoundError as error:
        what = f"a tokenizer without a tokenizer.json ({folder})"
        raise TorchNotInstalled(what=what, package="transformers") from error
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        problem = f"transformers cannot load its tokenizer: {reason}"
        raise UnsupportedCheckpoint(folder=folder, problem=problem) from error


def main(arguments: list[str]) -> int:
    """Convert; 0, or 1 with the reason on stderr."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m embedway.models.tokenizer_conversion FOLDER TARGET\n")
        return 2
    try:
        convert(arguments[0], arguments[1])
    except StartupError as error:
        sys.stderr.write(f"{error.message}\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
