"""Which words mean alike? Run a server (`make serve`), then: python examples/similarity.py"""

from __future__ import annotations

import os

import numpy as np
from openai import OpenAI

client = OpenAI(base_url=os.environ.get("EMBEDWAY_URL", "http://127.0.0.1:30000") + "/v1", api_key="none")
words = ["cat", "feline", "weather"]
answer = client.embeddings.create(model="sentence-transformers/all-MiniLM-L6-v2", input=words)
vectors = np.array([item.embedding for item in answer.data])

# The vectors have unit length: their dot product is their cosine similarity.
similarity = vectors @ vectors.T
print(f"cat and feline:  {similarity[0, 1]:.3f}")
print(f"cat and weather: {similarity[0, 2]:.3f}")
assert similarity[0, 1] > similarity[0, 2]
