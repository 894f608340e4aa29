from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

from embedway.errors import UnsupportedCheckpoint
from embedway.inputs.special_tokens import declared_post_processor
from embedway.models.checkpoint import read_spec
from embedway.models.checkpoint_location import locate
from embedway.models.tokenizer_conversion import SAMPLES, convert, difference, main, needs_conversion

VOCAB = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"abcdefghijklmnopqrstuvwxyz",
    *(f"##{c}" for c in "abcdefgh"),
    "the",
]


def minilm() -> Path:
    return locate("all-MiniLM-L6-v2").folder


def ids_of(folder: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def write_word_piece(folder: Path) -> Path:
    """BERT's tokenizer as it was before `tokenizer.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCAB))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 99}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def write_llama_with_an_undeclared_eos(folder: Path) -> Path:
    """A class that obeyed the flags, a template that adds BOS alone, and `add_eos_token: true`: as e5-mistral."""
    specials = ["<unk>", "<s>", "</s>"]
    pieces = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in specials])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "add_eos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


def test_only_a_folder_without_tokenizer_json_needs_conversion(tmp_path: Path) -> None:
    spec = read_spec(minilm(), name="minilm")
    assert not needs_conversion(spec)
    assert needs_conversion(msgspec.structs.replace(spec, tokenizer_folder=str(write_word_piece(tmp_path))))


def test_the_real_minilm_has_auto_tokenizers_ids() -> None:
    tokenizer = ids_of(minilm())
    assert difference(minilm(), lambda text: tokenizer.encode(text).ids) is None


def test_a_converted_tokenizer_has_auto_tokenizers_ids(tmp_path: Path) -> None:
    folder = write_word_piece(tmp_path / "old")
    convert(folder, tmp_path / "new")
    tokenizer = ids_of(tmp_path / "new")
    assert tokenizer.encode("the Cab").tokens == ["[CLS]", "the", "c", "##a", "##b", "[SEP]"]
    assert difference(folder, lambda text: tokenizer.encode(text).ids) is None
    assert json.loads((tmp_path / "new" / "tokenizer_config.json").read_text())["model_max_length"] == 99


def test_the_conversion_runs_as_a_program(tmp_path: Path) -> None:
    folder = write_word_piece(tmp_path / "old")
    command = [sys.executable, "-m", "embedway.models.tokenizer_conversion", str(folder), str(tmp_path / "new")]
    assert subprocess.run(command, check=False).returncode == 0
    assert (tmp_path / "new" / "tokenizer.json").is_file()


def test_a_failed_conversion_says_why_in_its_last_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), str(tmp_path / "new")]) == 2
    assert (
        f"cannot serve {tmp_path}: transformers cannot load its tokenizer" in capsys.readouterr().err.splitlines()[-1]
    )


def test_a_folder_without_a_tokenizer_cannot_be_compared(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedCheckpoint, match="transformers cannot load its tokenizer"):
        difference(tmp_path, lambda _: [])


@pytest.mark.parametrize("text", SAMPLES)
def test_every_sample_can_be_the_one_that_differs(text: str) -> None:
    tokenizer = ids_of(minilm())
    found = difference(minilm(), lambda t: [] if t == text else tokenizer.encode(t).ids)
    assert found is not None
    assert found.startswith(f"{text!r} has the tokens [] here, but [101, ")


def test_the_declared_eos_is_compared_where_auto_tokenizer_drops_it(tmp_path: Path) -> None:
    folder = write_llama_with_an_undeclared_eos(tmp_path)
    tokenizer = ids_of(folder)
    declared_post_processor(tokenizer, json.loads((folder / "tokenizer_config.json").read_text()))

    def ours(text: str) -> list[int]:
        return tokenizer.encode(text).ids

    assert difference(folder, ours, declare=declared_post_processor) is None
    assert difference(folder, ours) is not None
