"""A LoRA adapter that learns something, trained with peft in seconds: to tell two topics apart, whatever the subject.

The base model puts "the price of a boat" next to "the colour of a boat"; the adapter is to put it next to "the price of
a violin". Most subjects are kept from the training, to be told apart afterwards.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from torch.nn.functional import normalize
from transformers import AutoModel

from embedway.models.transformers_loading import quiet_transformers
from peft_folders import quiet_peft

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

SUBJECTS = (
    *("boat", "violin", "carpet", "lamp", "bicycle", "melon", "tractor", "necklace", "sofa", "kettle"),
    *("horse", "tent", "guitar", "jacket", "piano", "camera", "rose", "table", "parrot", "helmet"),
)
TOPICS = (
    ("How much does a {} cost?", "I paid far too much for the {}.", "The {} is on sale for half its price."),
    ("What colour is a {}?", "I painted the {} dark red.", "The {} shines in green and blue."),
)
STEPS = 8


class Labelled(NamedTuple):
    """Texts, and which of the two topics each is about."""

    texts: list[str]
    topics: npt.NDArray[np.int64]


def texts_about(subjects: Sequence[str]) -> Labelled:
    pairs = [
        (sentence.format(subject), topic)
        for topic, sentences in enumerate(TOPICS)
        for sentence, subject in itertools.product(sentences, subjects)
    ]
    return Labelled([text for text, _ in pairs], np.array([topic for _, topic in pairs]))


TRAINED, UNSEEN = texts_about(SUBJECTS[:6]), texts_about(SUBJECTS[6:])


def train_topic_adapter(base: Path, folder: Path) -> Path:
    """Train an adapter for a model that pools by mean, on TRAINED, and save it to `folder`, which is returned."""
    with quiet_transformers(), quiet_peft(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # the last layers alone: nothing is propagated back through the others
        config = LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value", "dense"], layers_to_transform=[4, 5])
        model = get_peft_model(AutoModel.from_pretrained(base), config)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=4e-3)
        tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
        tokenizer.enable_padding()
        read = tokenizer.encode_batch(TRAINED.texts)
        token_ids, mask = (torch.tensor([getattr(text, name) for text in read]) for name in ("ids", "attention_mask"))
        topics = torch.from_numpy(TRAINED.topics)
        alike = (topics[:, None] == topics[None, :]).float()
        for _ in range(STEPS):
            states = model(input_ids=token_ids, attention_mask=mask)[0]
            vectors = normalize((states * mask[..., None]).sum(1))
            # texts of one topic at cosine 1, of two at 0
            loss = (vectors @ vectors.T - alike).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        model.save_pretrained(str(folder))
    return folder


def separation(vectors: npt.NDArray[np.float32], topics: npt.NDArray[np.int64]) -> float:
    """By how much the cosine of two texts of one topic exceeds that of two topics, on average."""
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines, alike = units @ units.T, topics[:, None] == topics[None, :]
    others = ~np.eye(len(units), dtype=bool)
    return float(cosines[alike & others].mean() - cosines[~alike].mean())
