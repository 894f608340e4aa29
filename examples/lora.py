"""Teach MiniLM to tell two subjects apart that it mixes up, and serve the adapter beside the base model.

Run a server with `make serve ARGS='--admin-api-key secret'`, then: ADMIN_KEY=secret python examples/lora.py
It trains for some seconds with peft (pip install peft), on texts that the base model finds alike.
"""

from __future__ import annotations

import os
import tempfile

import httpx
import numpy as np
import torch
from openai import OpenAI
from peft import LoraConfig, get_peft_model
from transformers import AutoModel, AutoTokenizer

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
MODEL_FOLDER = os.environ.get("MODEL_FOLDER", MODEL)
URL = os.environ.get("EMBEDWAY_URL", "http://127.0.0.1:30000")
ADMIN_KEY = os.environ.get("ADMIN_KEY", "secret")

PARTS = ["bumper", "door", "roof", "hood", "window", "mirror", "wheel", "seat"]
BROKEN = [f"The {part} of my car is damaged, please repair it." for part in PARTS]
WANTED = [f"The {part} of my car is damaged, please send me a new one." for part in PARTS]
TRAINED = 5  # of each; the other texts are new to the adapter


def separation(vectors: np.ndarray) -> float:
    """How much nearer texts of one subject are than those of two: mean cosine within, minus across."""
    a, b = vectors[: len(vectors) // 2], vectors[len(vectors) // 2 :]
    return float(((a @ a.T).mean() + (b @ b.T).mean()) / 2 - (a @ b.T).mean())


def train(folder: str) -> None:
    """A LoRA adapter of rank 8 that pulls the two subjects apart."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(MODEL_FOLDER)
    assert tokenizer is not None
    model = get_peft_model(AutoModel.from_pretrained(MODEL_FOLDER), LoraConfig(r=8, target_modules=["query", "value"]))
    inputs = tokenizer(BROKEN[:TRAINED] + WANTED[:TRAINED], padding=True, return_tensors="pt")
    is_same = torch.arange(2).repeat_interleave(TRAINED)
    target = (is_same[:, None] == is_same[None, :]).float()
    mask = inputs["attention_mask"].unsqueeze(-1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(20):
        states = (model(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)
        vectors = torch.nn.functional.normalize(states, dim=1)
        loss = (vectors @ vectors.T - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)


client = OpenAI(base_url=f"{URL}/v1", api_key=ADMIN_KEY)


def embed(model: str) -> np.ndarray:
    answer = client.embeddings.create(model=model, input=BROKEN[TRAINED:] + WANTED[TRAINED:])
    return np.array([item.embedding for item in answer.data])


with tempfile.TemporaryDirectory() as folder:
    train(folder)
    body = {"lora_name": "intents", "lora_path": folder}
    loaded = httpx.post(f"{URL}/load_lora_adapter", json=body, headers={"Authorization": f"Bearer {ADMIN_KEY}"})
    assert loaded.status_code == 200, loaded.text
    base, adapted = separation(embed(MODEL)), separation(embed(f"{MODEL}:intents"))

print(f"base {base:.2f}, adapter {adapted:.2f}")
assert adapted > 2 * base
