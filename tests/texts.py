"""Texts of every kind: languages, emoji, code, special tokens, 1 to 256 tokens."""

from __future__ import annotations

import random

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "Die Würde des Menschen ist unantastbar.",
    "L'été dernier, nous avons visité la Côte d'Azur.",
    "¿Dónde está la biblioteca más cercana?",
    "Все счастливые семьи похожи друг на друга.",
    "人工智能正在改变世界。",
    "吾輩は猫である。名前はまだ無い。",
    "모든 인간은 태어날 때부터 자유롭다.",
    "السلام عليكم ورحمة الله وبركاته",
    "שלום עולם, מה שלומך היום?",
    "नमस्ते दुनिया, आप कैसे हैं?",
    "สวัสดีชาวโลก",
    "Γνῶθι σεαυτόν",
    "Çok güzel bir gün, değil mi?",
    "Zażółć gęślą jaźń",
    "Tôi yêu tiếng Việt",
    "👩‍👩‍👧‍👦 🇫🇷 👍🏽 ❤️‍🔥",
    "def f(x: int) -> int:\n    return x ** 2  # squared",
    "SELECT name, COUNT(*) FROM users WHERE age >= 18 GROUP BY name;",
    "<html><body class='x'>&amp; &lt;tag&gt;</body></html>",
    "[CLS] a [SEP] b [MASK] [PAD] [UNK] </s> <s> <|endoftext|>",
    "https://example.org/path?q=1&r=%20#top",
    "e\u0301 \u00e9 \u200b zero\u00adwidth \ufeff bom",
    "1234567890 3.14159 1,000,000 -40°C 10⁻⁹",
    "a",
    "!",
    "…",
    "\t tabs\tand\n\nnewlines \r\n",
    "ALL CAPS AND miXed CaSe",
    "supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝒻𝒶𝓃𝒸𝓎 ﬁﬂ ½ Ⅳ ①",
    "x" * 150,
]
WORDS = [
    *("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child"),
    *("world", "school", "state", "family", "student", "group", "country"),
]


def varied_texts(count: int, seed: int = 0) -> list[str]:
    """`count` different texts; the first are SENTENCES, the others mix them and words, up to about 250 tokens."""
    rng = random.Random(seed)
    texts = dict.fromkeys(SENTENCES)
    while len(texts) < count:
        length = rng.choice([5, 20, 60, 120])
        parts = [rng.choice(SENTENCES[:24] if rng.random() < 0.1 else WORDS) for _ in range(length)]
        texts[" ".join(parts)] = None
    return list(texts)[:count]
