"""ModelSpec: what a checkpoint declares. Built by `models/checkpoint.py`, read everywhere, sent between processes."""

from __future__ import annotations

from typing import Literal

import msgspec

Pooling = Literal["cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


class DenseSpec(msgspec.Struct, frozen=True):
    """One `Dense` module of a sentence-transformers folder: `activation(x @ weight.T + bias)`."""

    folder: str
    in_features: int
    out_features: int
    bias: bool
    activation: str


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One checkpoint. Lengths are in tokens, special tokens included. Written by `models/checkpoint.py`."""

    name: str
    """The name the operator gave: a Hub id or a folder."""
    folder: str
    """The local folder with `config.json`, the tokenizer and the weights."""
    tokenizer_folder: str
    """Where `tokenizer.json` and `tokenizer_config.json` lie (another folder if the tokenizer had to be converted)."""
    revision: str | None
    """The Hub commit, where known."""
    model_type: str
    """`model_type` of `config.json`, e.g. `bert`."""
    vocab_size: int
    """Rows of the token embedding: valid ids are `0 … vocab_size - 1`."""
    hidden_size: int
    max_length: int
    """Most tokens an item may have; exactly this many is fine."""
    pooling: tuple[Pooling, ...]
    """Modes whose vectors are concatenated, in this order (nearly always one)."""
    include_prompt: bool
    """False: the prompt's tokens are left out of the pooling."""
    dense: tuple[DenseSpec, ...]
    """Dense modules after the pooling, in order."""
    dimension: int
    """Length of a full vector, after pooling and Dense modules."""
    normalize: bool
    """True where the folder declares a Normalize module."""
    matryoshka_dimensions: tuple[int, ...]
    """Declared Matryoshka lengths, ascending; empty where none are declared."""
    truncate_dim: int | None
    """sentence-transformers' `truncate_dim`: the default length of a vector."""
    prompts: dict[str, str]
    """Declared prompts by name."""
    default_prompt_name: str | None
    lowercase: bool
    """True: texts are lowercased before the tokenizer (`do_lower_case` of `sentence_bert_config.json`)."""
    bidirectional: bool | None = None
    """Overrides the direction of a decoder's attention where the folder declares it (e.g. `is_causal: false`)."""
    pad_token_id: int | None = None
    trust_remote_code: bool = False
