"""Group texts by subject with k-means. Run a server (`make serve`), then: python examples/clustering.py"""

from __future__ import annotations

import os

from openai import OpenAI
from sklearn.cluster import KMeans

TEXTS = [
    "How do I reset my password?",
    "I cannot log in to my account.",
    "The login page says that my password is wrong.",
    "When will my parcel arrive?",
    "The delivery of my order is late.",
    "My package was shipped last week and is still not here.",
    "This pasta recipe needs fresh basil and garlic.",
    "Bake the bread for forty minutes in a hot oven.",
    "Add a pinch of salt to the tomato sauce.",
]

client = OpenAI(base_url=os.environ.get("EMBEDWAY_URL", "http://127.0.0.1:30000") + "/v1", api_key="none")
answer = client.embeddings.create(model="sentence-transformers/all-MiniLM-L6-v2", input=TEXTS)
labels = KMeans(n_clusters=3, n_init=10, random_state=0).fit_predict([item.embedding for item in answer.data])

for label in range(3):
    print(f"Group {label + 1}:")
    for text, its_label in zip(TEXTS, labels, strict=True):
        if its_label == label:
            print(f"  {text}")
assert [len(set(labels[i : i + 3])) for i in (0, 3, 6)] == [1, 1, 1]
