"""Pooling of well-known models whose folder does not declare it: what their authors say on the model's page.

A row is used only for a folder without `modules.json`, or with one whose classes come with the model. A model that is
in no row needs `--pooling`: nothing is guessed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedway.model_spec import Pooling


@dataclass(frozen=True, slots=True)
class Family:
    """One row. It matches where the name and, if given, the model type do."""

    name: str
    """Regular expression for the whole last part of the name, in lower case with dashes"""
    pooling: Pooling
    normalize: bool
    model_types: tuple[str, ...] = ()
    bidirectional: bool | None = None
    instruction: str = ""
    """The default prompt; empty for none"""
    chat_template: str | None = None
    """A name of `chat_templates`, where the folder's own template does not write the prompt"""
    has_own_modules: bool = False
    """True: its `modules.json` names classes that come with it, and do what this row says"""

    def matches(self, name: str, model_type: str) -> bool:
        return bool(re.fullmatch(self.name, name)) and (not self.model_types or model_type in self.model_types)


DECODERS = ("gemma", "gemma2", "llama", "mistral", "qwen2", "qwen3")
BERTS = ("bert", "distilbert", "mpnet", "roberta", "xlm-roberta")

FAMILIES: tuple[Family, ...] = (
    # BAAI: the encoders take the first token, the LLM embedders the last.
    Family(r"bge-(small|base|large)(-(en|zh))?(-v1\.5)?", "cls", normalize=True, model_types=("bert",)),
    Family(r"bge-m3(-unsupervised|-retromae)?", "cls", normalize=True, model_types=("xlm-roberta",)),
    Family(r"bge-(en-icl|multilingual-gemma2|code-v1)", "lasttoken", normalize=True, model_types=DECODERS),
    # intfloat: E5 averages; the instruct model on Mistral takes its EOS.
    Family(r"e5-mistral-7b-instruct", "lasttoken", normalize=True, model_types=("mistral",)),
    Family(
        r"(multilingual-)?e5-(small|base|large)(-v2|-unsupervised|-instruct)?",
        "mean",
        normalize=True,
        model_types=BERTS,
    ),
    # Models made from e5-mistral.
    Family(r"(sfr-embedding(-mistral|-2-r)|linq-embed-mistral)", "lasttoken", normalize=True, model_types=("mistral",)),
    # Qwen3-Embedding: the final <|endoftext|>.
    Family(r"qwen3-embedding-(0\.6b|4b|8b)", "lasttoken", normalize=True, model_types=("qwen3",)),
    # Qwen3-VL-Embedding: the end of the prompt for an answer; its authors always give an instruction.
    Family(
        r"qwen3-vl-embedding-(2b|8b)",
        "lasttoken",
        normalize=True,
        model_types=("qwen3_vl",),
        instruction="Represent the user's input.",
    ),
    # GME: the <|endoftext|> that its own code puts behind the template's prompt.
    Family(
        r"gme-qwen2-vl-(2b|7b)-instruct",
        "lasttoken",
        normalize=True,
        model_types=("qwen2_vl",),
        chat_template="gme-qwen2-vl",
        has_own_modules=True,
    ),
    # Alibaba GTE: the Qwen2 models are decoders made bidirectional; v1.5, multilingual and ModernBERT take the first
    # token, the first generation averages.
    Family(r"gte-qwen2-(1\.5b|7b)-instruct", "lasttoken", normalize=True, model_types=("qwen2",), bidirectional=True),
    Family(r"gte-(base|large)-en-v1\.5|gte-multilingual-base", "cls", normalize=True, model_types=("new", "gte")),
    Family(r"gte-modernbert-base", "cls", normalize=True, model_types=("modernbert",)),
    Family(r"gte-(small|base|large)(-zh)?", "mean", normalize=True, model_types=("bert",)),
    # Contriever averages and does not normalise.
    Family(r"m?contriever(-msmarco)?", "mean", normalize=False, model_types=("bert",)),
    # Snowflake Arctic Embed, all sizes and both generations.
    Family(r"snowflake-arctic-embed-(xs|s|m|l)(-long|-v1\.5|-v2\.0)?", "cls", normalize=True),
    # mixedbread: the first token, except for the xsmall model, which averages.
    Family(r"mxbai-embed-(large-v1|2d-large-v1)", "cls", normalize=True, model_types=("bert",)),
    Family(r"mxbai-embed-xsmall-v1", "mean", normalize=True, model_types=("bert",)),
    # WhereIsAI's UAE was trained on the first token and does not normalise.
    Family(r"uae-large-v1", "cls", normalize=False, model_types=("bert",)),
    # Nomic averages.
    Family(r"nomic-embed-text-v1(\.5)?", "mean", normalize=True, model_types=("nomic_bert",)),
    # sentence-transformers' own models for general use average; their pages normalise.
    Family(r"all-(minilm-l(6|12)-v[12]|mpnet-base-v[12]|distilroberta-v1)", "mean", normalize=True, model_types=BERTS),
    Family(
        r"paraphrase-(multilingual-)?(minilm-l(3|6|12)-v2|mpnet-base-v2)", "mean", normalize=False, model_types=BERTS
    ),
)


def find_family(name: str, model_type: str) -> Family | None:
    """The first row for a Hub id or a folder (its last part counts) with this `model_type`, or None."""
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1].lower().replace("_", "-")
    return next((family for family in FAMILIES if family.matches(last, model_type)), None)
