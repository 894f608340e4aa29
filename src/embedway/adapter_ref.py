"""AdapterRef: a loaded LoRA adapter as all processes speak of it. Made by the engine that read it first."""

from __future__ import annotations

import msgspec

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
ADAPTER_FILES = (CONFIG, WEIGHTS)
"""Of an adapter's folder, as peft writes them"""


class AdapterRef(msgspec.Struct, frozen=True):
    """Enough to load the adapter wherever it is needed, and to know that it is still the same one."""

    name: str
    """By which requests ask for it"""
    folder: str
    """With adapter_config.json and the weights"""
    content_hash: str
    """SHA-256 of its files, in hex: two adapters of one hash give the same vectors"""
    pinned: bool = False
    """It is never evicted."""
