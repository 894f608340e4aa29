"""What is compared: texts of every kind, and images where the model reads them. The same ones at each run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

PARAGRAPH = (
    "Embeddings turn texts into vectors, so that texts with a similar meaning lie close to each other. A search engine "
    "compares the vector of a query with those of many documents, and shows the nearest ones first. "
)
TEXTS = (
    "a",
    ".",
    "0",
    "…",
    "\u00a0x\u00a0",
    "cat",
    "The quick brown fox jumps over the lazy dog.",
    "How do I reset my password?",
    "To reset it, open the settings, choose 'Account' and follow the link that we send you by mail.",
    "LOUD AND miXed CaSe, with   spaces,\ttabs\nand\r\nlines",
    "1234567890 3.14159 1,000,000 -40°C 10⁻⁹ 12:34:56 2024-02-29",
    "https://example.org/a/path?q=1&r=%20#top someone@example.org",
    "def f(x: int) -> int:\n    return x ** 2  # squared",
    "SELECT name, COUNT(*) FROM users WHERE age >= 18 GROUP BY name;",
    "<p class='x'>&amp; &lt;b&gt;</p> \\frac{1}{2} {\"key\": [1, 2]}",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "Die Straße nach Köln ist gesperrt, wir fahren über Düsseldorf.",
    "L'été dernier, nous avons visité la Côte d'Azur.",
    "¿Dónde está la biblioteca más cercana?",
    "Zażółć gęślą jaźń; příliš žluťoučký kůň",
    "Все счастливые семьи похожи друг на друга.",
    "Γνῶθι σεαυτόν",
    "人工智能正在改变世界。",
    "吾輩は猫である。名前はまだ無い。",
    "모든 인간은 태어날 때부터 자유롭다.",
    "السلام عليكم ورحمة الله وبركاته",
    "שלום עולם, מה שלומך היום?",
    "नमस्ते दुनिया, आप कैसे हैं?",
    "สวัสดีชาวโลก",
    "👩‍👩‍👧‍👦 🇫🇷 👍🏽 ❤️‍🔥",
    "e\u0301 is not \u00e9; a soft\u00adhyphen, a zero\u200bwidth space, ﬁﬂ ½ Ⅳ ①",
    PARAGRAPH,
    PARAGRAPH * 3,
    PARAGRAPH * 20,
)
"""The last one is longer than most models read, so that cutting is compared too."""
IMAGE_SIZES = ((64, 64), (224, 224), (640, 480), (90, 400), (17, 9))
"""Width and height"""


def images() -> list[Image]:
    """Coarse patterns of many colours, in several sizes."""
    from PIL import Image

    random = np.random.default_rng(0)
    coarse = [random.integers(0, 256, (6, 6, 3), np.uint8) for _ in IMAGE_SIZES]
    bicubic = Image.Resampling.BICUBIC
    return [Image.fromarray(seed).resize(size, bicubic) for seed, size in zip(coarse, IMAGE_SIZES, strict=True)]
