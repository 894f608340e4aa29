"""Find the passage that answers a question. Run a server (`make serve`), then: python examples/rag.py"""

from __future__ import annotations

import os

import numpy as np
from openai import OpenAI

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
PASSAGES = [
    "The Eiffel Tower was built for the World's Fair of 1889 and is 330 metres high.",
    "SGLang is a fast serving framework for large language models and vision language models.",
    "Sourdough bread rises with wild yeast and bacteria instead of baker's yeast.",
    "A vector database stores embeddings and finds the nearest ones to a query.",
    "The Great Barrier Reef is the largest living structure on Earth.",
]
QUESTION = "What is SGLang?"

client = OpenAI(base_url=os.environ.get("EMBEDWAY_URL", "http://127.0.0.1:30000") + "/v1", api_key="none")


def embed(texts: list[str], input_type: str) -> np.ndarray:
    """[n, dimension], unit vectors. Models with prompts for queries and documents use them; others ignore the type."""
    answer = client.embeddings.create(model=MODEL, input=texts, extra_body={"input_type": input_type})
    return np.array([item.embedding for item in answer.data])


index = embed(PASSAGES, "document")
scores = index @ embed([QUESTION], "query")[0]
for i in np.argsort(-scores)[:3]:
    print(f"{scores[i]:.3f}  {PASSAGES[i]}")
assert np.argmax(scores) == 1
