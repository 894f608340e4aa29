"""The text tower of CLIP, SigLIP and SigLIP2: packed token ids → one vector a text.

CLIP is causal and pools at the end-of-text token. SigLIP's towers see both ways and were trained on texts padded to
their full length without a mask: the padding is part of what they read, and the last position is pooled. So their texts
are padded here (usage counts what the user sent), and still lie end to end.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from tokenizers import Tokenizer

from embedway.errors import UnsupportedCheckpoint
from embedway.models.attention import packed_layout
from embedway.models.json_files import read_object
from embedway.models.packed_rows import row_chunks, with_spare_rows
from embedway.models.tower import Tower

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from embedway.model_spec import ModelSpec
    from embedway.models.dual_encoder_config import DualEncoderConfig
    from embedway.models.tower_weights import TowerWeights

    Ids = npt.NDArray[np.int32]

LARGEST_ID = 2
"""CLIP folders that declare this end-of-text id mean the largest one of the text (transformers #24773)."""


class TextReading(Protocol):
    """What a tower makes of a text's ids, and where it pools."""

    @property
    def causal(self) -> bool: ...

    def read(self, ids: Ids) -> Ids:
        """The ids as the tower reads them"""
        ...

    def pooled(self, ids: Ids) -> int:
        """The place, among the ids that `read` gave, whose state is the text's"""
        ...


@dataclass(frozen=True, slots=True)
class ToEndOfText:
    """CLIP's."""

    eos_token_id: int | None
    causal = True

    def read(self, ids: Ids) -> Ids:
        return ids

    def pooled(self, ids: Ids) -> int:
        """The first end-of-text token; the last place where ids came without one, since it alone has seen them all."""
        if self.eos_token_id == LARGEST_ID:
            return int(np.argmax(ids))
        places = np.flatnonzero(ids == self.eos_token_id)
        return int(places[0]) if len(places) else len(ids) - 1


@dataclass(frozen=True, slots=True)
class Padded:
    """SigLIP's and SigLIP2's."""

    length: int
    pad_token_id: int
    is_left: bool
    causal = False

    def read(self, ids: Ids) -> Ids:
        padding = np.full(max(0, self.length - len(ids)), self.pad_token_id, np.int32)
        return np.concatenate([padding, ids] if self.is_left else [ids, padding])

    def pooled(self, ids: Ids) -> int:
        return len(ids) - 1


def text_reading(spec: ModelSpec, config: DualEncoderConfig) -> TextReading:
    """Raises UnsupportedCheckpoint where a tokenizer that must pad names no token for it."""
    if config.model_type == "clip":
        return ToEndOfText(config.eos_token_id)
    folder = Path(spec.tokenizer_folder)
    settings = read_object(folder, "tokenizer_config.json")
    declared = settings.values.get("pad_token") if settings else None
    token = declared.get("content") if isinstance(declared, dict) else declared
    # not config.json's pad_token_id: published SigLIP2 folders leave that at a default, which is another token
    pad = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id(token) if isinstance(token, str) else None
    if settings is None or pad is None:
        raise UnsupportedCheckpoint(
            folder=spec.folder, problem="tokenizer_config.json names no 'pad_token' to pad with"
        )
    return Padded(config.num_positions, pad, is_left=settings.text("padding_side") == "left")


class TextTower:
    """The words' table is float32, and on a CPU stays where the file has it."""

    def __init__(self, weights: TowerWeights, config: DualEncoderConfig, reading: TextReading) -> None:
        hidden = config.text.hidden_size
        self.reading, self.device = reading, weights.device
        self.words = weights.table("text_model.embeddings.token_embedding.weight", config.vocab_size, hidden)
        self.positions = weights.copy("text_model.embeddings.position_embedding.weight", config.num_positions, hidden)
        self.tower = Tower(weights, "text_model", config.text)
        self.norm = weights.norm("text_model.final_layer_norm", hidden, config.text.layer_norm_eps)
        is_clip = config.model_type == "clip"
        head = "text_projection" if is_clip else "text_model.head"
        self.head = weights.linear(head, hidden, config.projection_size, bias=not is_clip)

    def __call__(self, texts: Sequence[Ids]) -> torch.Tensor:
        """Token ids, int32 [length] each, to float32 [n, dimension]"""
        read = [self.reading.read(ids) for ids in texts]  # SigLIP's are longer than the batch counts them
        return torch.cat([self._run(read[start:stop]) for start, stop in row_chunks(list(map(len, read)))])

    def _run(self, read: Sequence[Ids]) -> torch.Tensor:
        cu_seqlens = np.cumsum([0, *map(len, read)], dtype=np.int32)
        places = np.array([self.reading.pooled(ids) for ids in read]) + cu_seqlens[:-1]
        layout = packed_layout(cu_seqlens, self.device)
        ids = with_spare_rows(torch.from_numpy(np.concatenate(read)).to(self.device, torch.int64))
        hidden = self.words[ids] + self.positions[with_spare_rows(layout.positions)]
        pooled = with_spare_rows(torch.from_numpy(places).to(self.device, torch.int64))
        states = self.norm(self.tower(hidden, layout, causal=self.reading.causal, pooled=pooled))
        return self.head(states.to(self.tower.dtype))[: len(read)].float()
