"""The types that a vector may be sent or written in; `vector_types.py` makes them."""

from __future__ import annotations

from typing import Literal, TypeAlias

OutputDtype: TypeAlias = Literal["float32", "int8", "uint8", "binary", "ubinary"]
