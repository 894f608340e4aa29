"""Search photos by text: python examples/multimodal.py "a dog on a beach" photos/*.jpg

Run a server with a model that reads images: make serve MODEL=openai/clip-vit-base-patch32
Without photos it draws some shapes and looks for one of them.
"""

from __future__ import annotations

import base64
import io
import os
import sys
from pathlib import Path
from typing import cast

import numpy as np
from openai import OpenAI
from PIL import Image, ImageDraw

URL = os.environ.get("EMBEDWAY_URL", "http://127.0.0.1:30000")
client = OpenAI(base_url=f"{URL}/v1", api_key=os.environ.get("EMBEDWAY_API_KEY", "none"))
MODEL = client.models.list().data[0].id


def drawn(shape: str, color: str) -> bytes:
    image = Image.new("RGB", (320, 240), "white")
    getattr(ImageDraw.Draw(image), shape)((90, 50, 230, 190), fill=color)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def embed(items: list[dict[str, str]]) -> np.ndarray:
    """Unit vectors, one an item; an item has 'text', 'image' or 'video', or some of them together."""
    answer = client.embeddings.create(model=MODEL, input=cast("list[str]", items))
    return np.array([entry.embedding for entry in answer.data])


query, *paths = sys.argv[1:] or ["a red circle"]
photos = {path: Path(path).read_bytes() for path in paths} or {
    f"a {color} {shape}": drawn(shape, color)
    for shape in ("ellipse", "rectangle")
    for color in ("red", "blue", "green")
}
# an image is a data URI, plain base64, a URL that the server may fetch, or a path that it may read
images = embed([{"image": base64.b64encode(data).decode()} for data in photos.values()])
[wanted] = embed([{"text": query}])
scores = images @ wanted
print(query)
for name, score in sorted(zip(photos, scores, strict=True), key=lambda found: -found[1]):
    print(f"{score:7.3f}  {name}")
