"""Samples → Prometheus' text format: https://prometheus.io/docs/instrumenting/exposition_formats/"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from embedway.observability.families import FAMILIES, family_of

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render(samples: Mapping[str, float]) -> bytes:
    """`samples` by name, labels included; of a histogram its buckets, each by itself, and then its sum."""
    by_family: dict[str, dict[str, float]] = {name: {} for name in FAMILIES}
    for name, value in samples.items():
        by_family[family_of(name)][name] = value
    lines: list[str] = []
    for name, family in FAMILIES.items():
        lines += [f"# HELP {name} {family.text}", f"# TYPE {name} {family.kind}"]
        own = by_family[name]
        lines += _histogram_lines(own) if family.kind == "histogram" else map(_line, own, own.values())
    return "\n".join([*lines, ""]).encode()


def _line(name: str, value: float) -> str:
    return f"{name} {float(value)}" if math.isfinite(value) else f"{name} {'+Inf' if value > 0 else 'NaN'}"


def _histogram_lines(samples: Mapping[str, float]) -> Iterable[str]:
    """Buckets in the order of their bounds, added up, and the count, which is the last of them."""
    total = 0.0
    for name, value in samples.items():
        if name.partition("{")[0].endswith("_sum"):
            yield _line(name, value)
            yield _line(name.replace("_sum", "_count", 1), total)
            total = 0.0
        else:
            total += value
            yield _line(name, total)
