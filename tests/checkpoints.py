"""Tiny model folders for tests: the whole sentence-transformers layout, seeded random weights, a real tokenizer.

`tiny_checkpoint("bert", tmp_path)` writes `config.json`, `model.safetensors`, `tokenizer.json`,
`tokenizer_config.json`, `modules.json`, `sentence_bert_config.json`, `config_sentence_transformers.json`,
`1_Pooling/config.json` and a folder for each Dense module. Nothing is downloaded, and the same arguments always write
the same weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from embedway.model_spec import DenseSpec, ModelSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from embedway.model_spec import Pooling

WORDS = (
    *("the", "a", "of", "and", "to", "in", "is", "for", "with", "on", "over", "not", "this", "how", "what", "where"),
    *("cat", "cats", "dog", "dogs", "sat", "mat", "quick", "brown", "fox", "jumps", "lazy", "search", "query"),
    *("document", "passage", "represent", "sentence", "model", "vector", "embedding", "server"),
)
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
PUNCTUATION = ".,:;!?'\"-_()[]{}<>/\\@#$%&*+=~^|`"

POOLING_FLAGS: dict[Pooling, str] = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
"""The flags of `1_Pooling/config.json`, in the order in which sentence-transformers concatenates several modes."""


@dataclass(frozen=True, slots=True)
class TinyDense:
    """A Dense module to write; its input is the pooling's vector or the Dense module before it."""

    out_features: int
    bias: bool = True
    activation: str = "torch.nn.modules.activation.Tanh"


@dataclass(frozen=True, slots=True)
class Family:
    """How one architecture is made small: `model_type`, tokenizer, and settings unlike the defaults."""

    model_type: str
    tokenizer: Callable[[], TinyTokenizer]
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TinyTokenizer:
    """A tokenizer and its `tokenizer_config.json` roles (`cls_token`, `eos_token`, ...)."""

    tokenizer: Tokenizer
    roles: Mapping[str, str]

    def token_id(self, role: str) -> int | None:
        return self.tokenizer.token_to_id(self.roles[role]) if role in self.roles else None


def tiny_checkpoint(
    family: str,
    folder: Path,
    *,
    pooling: str | Sequence[str] = "mean",
    include_prompt: bool = True,
    dense: Sequence[TinyDense] = (),
    normalize: bool = True,
    prompts: Mapping[str, str] | None = None,
    default_prompt_name: str | None = None,
    max_seq_length: int = 64,
    do_lower_case: bool = False,
    truncate_dim: int | None = None,
    config: Mapping[str, Any] | None = None,
    causal_lm: bool = False,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Path:
    """Write a tiny model of `family` (a key of FAMILIES) to `folder`, which is made, and return the folder.

    `config` overrides settings of `config.json` (e.g. `sliding_window=8`, `is_causal=False`); `causal_lm` saves a
    decoder as its ForCausalLM class, as most published decoder checkpoints are. Several `pooling` modes are written
    as flags, so they concatenate in the order of POOLING_FLAGS.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = FAMILIES[family].tokenizer()
    write_tokenizer(made, folder)
    hidden = write_weights(
        FAMILIES[family], made, folder, config or {}, causal_lm=causal_lm, dtype=dtype, seed=seed, length=max_seq_length
    )
    modes = (pooling,) if isinstance(pooling, str) else tuple(pooling)
    write_json(folder / "sentence_bert_config.json", max_seq_length=max_seq_length, do_lower_case=do_lower_case)
    write_json(
        folder / "config_sentence_transformers.json",
        prompts=dict(prompts or {}),
        default_prompt_name=default_prompt_name,
        similarity_fn_name="cosine",
        **({"truncate_dim": truncate_dim} if truncate_dim else {}),
    )
    (folder / "1_Pooling").mkdir(exist_ok=True)
    write_json(
        folder / "1_Pooling" / "config.json",
        word_embedding_dimension=hidden,
        include_prompt=include_prompt,
        **{flag: mode in modes for mode, flag in POOLING_FLAGS.items()},
    )
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    width = hidden * len(modes)
    for number, module in enumerate(dense, start=2):
        modules.append((f"{number}_Dense", "Dense"))
        write_dense(folder / f"{number}_Dense", module, width, seed + number)
        width = module.out_features
    if normalize:
        modules.append((f"{len(modules)}_Normalize", "Normalize"))
    listing = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listing, indent=2))
    return folder


def tiny_spec(folder: Path) -> ModelSpec:
    """Read back what `tiny_checkpoint` wrote: for tests of what comes after the checkpoint reader."""
    config = read_json(folder / "config.json")
    pooling = read_json(folder / "1_Pooling" / "config.json")
    extras = read_json(folder / "config_sentence_transformers.json")
    limits = read_json(folder / "sentence_bert_config.json")
    modes = tuple(mode for mode, flag in POOLING_FLAGS.items() if pooling[flag])
    dense = tuple(read_dense(path.parent) for path in sorted(folder.glob("*_Dense/config.json")))
    hidden = pooling["word_embedding_dimension"]
    return ModelSpec(
        name=folder.name,
        folder=str(folder),
        tokenizer_folder=str(folder),
        revision=None,
        model_type=config["model_type"],
        vocab_size=config["vocab_size"],
        hidden_size=hidden,
        max_length=limits["max_seq_length"],
        pooling=modes,
        include_prompt=pooling["include_prompt"],
        dense=dense,
        dimension=dense[-1].out_features if dense else hidden * len(modes),
        normalize="Normalize" in (folder / "modules.json").read_text(),
        matryoshka_dimensions=(),
        truncate_dim=extras.get("truncate_dim"),
        prompts=extras["prompts"],
        default_prompt_name=extras["default_prompt_name"],
        lowercase=limits["do_lower_case"],
        bidirectional=None if "is_causal" not in config else not config["is_causal"],
        pad_token_id=config.get("pad_token_id"),
    )


def write_weights(
    family: Family,
    made: TinyTokenizer,
    folder: Path,
    overrides: Mapping[str, Any],
    *,
    causal_lm: bool,
    dtype: torch.dtype,
    seed: int,
    length: int,
) -> int:
    """Save a seeded random model of the family with `config.json`; returns its hidden size."""
    specials = {
        f"{role}_id": made.token_id(role) for role in ("pad_token", "bos_token", "eos_token", "cls_token", "sep_token")
    }
    # RoBERTa-like models number positions from pad_token_id + 1, so the table needs that many rows more.
    positions = length + 2
    settings = {"max_position_embeddings": positions, **specials, **family.config, **overrides}
    config = AutoConfig.for_model(family.model_type, vocab_size=made.tokenizer.get_vocab_size(), **settings)
    build = AutoModelForCausalLM if causal_lm else AutoModel
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build.from_config(config, attn_implementation="eager").eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() > 1:
                    parameter.mul_(3)  # the usual 0.02 makes attention nearly uniform, which would hide mistakes
                elif name.endswith("bias"):
                    parameter.normal_(std=0.1)
    model.to(dtype).save_pretrained(folder)
    return config.hidden_size


def write_dense(folder: Path, module: TinyDense, in_features: int, seed: int) -> None:
    folder.mkdir(exist_ok=True)
    random = torch.Generator().manual_seed(seed)
    weights = {"linear.weight": torch.randn(module.out_features, in_features, generator=random) / in_features**0.5}
    if module.bias:
        weights["linear.bias"] = torch.randn(module.out_features, generator=random)
    save_file(weights, folder / "model.safetensors")
    write_json(
        folder / "config.json",
        in_features=in_features,
        out_features=module.out_features,
        bias=module.bias,
        activation_function=module.activation,
    )


def read_dense(folder: Path) -> DenseSpec:
    config = read_json(folder / "config.json")
    return DenseSpec(
        folder=folder.name,
        in_features=config["in_features"],
        out_features=config["out_features"],
        bias=config["bias"],
        activation=config["activation_function"],
    )


def write_tokenizer(made: TinyTokenizer, folder: Path) -> None:
    made.tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        tokenizer_class="PreTrainedTokenizerFast",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
        **made.roles,
    )


def wordpiece(pad: str, unk: str, first: str, last: str, mask: str, *, pad_id: int = 0) -> TinyTokenizer:
    """Lowercasing WordPiece of words and single characters, as BERT's."""
    specials = [first, pad] if pad_id == 1 else [pad, first]
    characters = [*(c for c in LETTERS if not c.isupper()), *PUNCTUATION]
    pieces = [*specials, last, unk, mask, *characters, *(f"##{c}" for c in characters), *WORDS, "##s", "##ing", "##ed"]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token=unk))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    roles = {
        "pad_token": pad,
        "unk_token": unk,
        "cls_token": first,
        "sep_token": last,
        "bos_token": first,
        "eos_token": last,
        "mask_token": mask,
    }
    return finish(tokenizer, roles, first, last)


def byte_level(roles: Mapping[str, str], first: str | None, last: str | None) -> TinyTokenizer:
    """Byte-level BPE with a few merges, as RoBERTa's and Qwen's; the special tokens of `roles` have the first ids."""
    specials = list(dict.fromkeys(roles.values()))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "n"), ("i", "n"), ("in", "g"), ("Ġ", "a"), ("e", "r")]
    pieces = [*specials, *alphabet, *(a + b for a, b in merges)]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return finish(tokenizer, roles, first, last)


def unigram(roles: Mapping[str, str], first: str | None, last: str) -> TinyTokenizer:
    """Unigram with the ▁ word mark, as XLM-RoBERTa's."""
    specials = list(dict.fromkeys(roles.values()))
    pieces = [(piece, 0.0) for piece in specials]
    pieces += [("▁", -2.0), *((f"▁{word}", -3.0) for word in WORDS), *((c, -6.0) for c in LETTERS + PUNCTUATION)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=specials.index(roles["unk_token"])))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return finish(tokenizer, roles, first, last)


def finish(tokenizer: Tokenizer, roles: Mapping[str, str], first: str | None, last: str | None) -> TinyTokenizer:
    """Mark the special tokens and put `first` and `last` around each text (two texts: both, one after the other)."""
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in dict.fromkeys(roles.values())])
    single = [part for part in (first, "$A", last) if part]
    pair = [*single, *(part for part in ("$B:1", last and f"{last}:1") if part)]
    used = [(token, tokenizer.token_to_id(token)) for token in dict.fromkeys((first, last)) if token]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=used)
    return TinyTokenizer(tokenizer, roles)


def write_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False), encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


BERT_TOKENIZER = partial(wordpiece, "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MPNET_TOKENIZER = partial(wordpiece, "<pad>", "[UNK]", "<s>", "</s>", "<mask>", pad_id=1)
ROBERTA_ROLES = {
    "bos_token": "<s>",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "mask_token": "<mask>",
}
MODERNBERT_ROLES = {
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
}
LLAMA_ROLES = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
QWEN_ROLES = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
T5_ROLES = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
GEMMA_ROLES = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
LLAMA_TOKENIZER = partial(byte_level, LLAMA_ROLES, "<s>", "</s>")
QWEN_TOKENIZER = partial(byte_level, QWEN_ROLES, None, "<|endoftext|>")

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
ROBERTA = {**SMALL, "type_vocab_size": 1}
DISTILBERT = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4}
DEBERTA = {**SMALL, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
T5 = {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 4}
GROUPED = {**SMALL, "num_key_value_heads": 2}
FAMILIES: dict[str, Family] = {
    "bert": Family("bert", BERT_TOKENIZER, SMALL),
    "roberta": Family("roberta", partial(byte_level, ROBERTA_ROLES, "<s>", "</s>"), ROBERTA),
    "xlm-roberta": Family("xlm-roberta", partial(unigram, ROBERTA_ROLES, "<s>", "</s>"), ROBERTA),
    "camembert": Family("camembert", partial(unigram, ROBERTA_ROLES, "<s>", "</s>"), ROBERTA),
    "electra": Family("electra", BERT_TOKENIZER, {**SMALL, "embedding_size": 32}),
    "mpnet": Family("mpnet", MPNET_TOKENIZER, SMALL),
    "distilbert": Family("distilbert", BERT_TOKENIZER, DISTILBERT),
    "modernbert": Family(
        "modernbert",
        partial(byte_level, MODERNBERT_ROLES, "[CLS]", "[SEP]"),
        {**SMALL, "local_attention": 8, "global_attn_every_n_layers": 2},
    ),
    "nomic_bert": Family("nomic_bert", BERT_TOKENIZER, SMALL),
    "llama": Family("llama", LLAMA_TOKENIZER, GROUPED),
    "mistral": Family("mistral", LLAMA_TOKENIZER, {**GROUPED, "sliding_window": None}),
    "qwen2": Family("qwen2", QWEN_TOKENIZER, GROUPED),
    "qwen3": Family("qwen3", QWEN_TOKENIZER, {**GROUPED, "head_dim": 16}),
    "gemma3": Family(
        "gemma3_text",
        partial(byte_level, GEMMA_ROLES, "<bos>", "<eos>"),
        {**GROUPED, "head_dim": 16, "sliding_window": 8, "sliding_window_pattern": 2, "query_pre_attn_scalar": 16},
    ),
    # these two do not go through transformers' attention interface, or add a term of their own to the scores
    "deberta-v2": Family("deberta-v2", BERT_TOKENIZER, DEBERTA),
    "t5": Family("t5", partial(unigram, T5_ROLES, None, "</s>"), T5),
}
"""The families by the name that `tiny_checkpoint` takes."""
