"""What every replica says, joined into what one server would say."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

METRICS = "/metrics"
SERVER_INFO = frozenset({"/server_info", "/get_server_info"})

_HEADER = re.compile(r"# (?:HELP|TYPE) (\S+) ")
_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?( .*)")


@dataclass(frozen=True, slots=True)
class Said:
    """A replica's answer."""

    replica: str
    status: int
    headers: Mapping[str, str]
    body: bytes


def joined(path: str, said: Sequence[Said]) -> tuple[int, dict[str, str], bytes]:
    """One answer: the first that is no success, else what all of them say together."""
    worst = max(said, key=lambda one: one.status)
    if worst.status >= 400:
        return worst.status, dict(worst.headers), worst.body
    first = said[0]
    body = first.body
    if path == METRICS:
        body = joined_metrics({one.replica: one.body.decode() for one in said}).encode()
    elif path in SERVER_INFO:
        body = orjson.dumps(joined_info({one.replica: orjson.loads(one.body) for one in said}))
    return first.status, dict(first.headers), body


def joined_metrics(texts: Mapping[str, str]) -> str:
    """Prometheus's text format: each replica's samples with its name in the label `server`, the lines of a family side
    by side, as the format wants them."""
    families: dict[str, tuple[list[str], list[str]]] = {}
    for replica, text in texts.items():
        headers, samples = families.setdefault("", ([], []))
        for line in text.splitlines():
            if header := _HEADER.match(line):
                headers, samples = families.setdefault(header[1], ([], []))
                if line not in headers:
                    headers.append(line)
            elif sample := _SAMPLE.fullmatch(line):
                name, labels, value = sample.groups()
                samples.append(f'{name}{{server="{replica}"{"," if labels else ""}{labels or ""}}}{value}')
    return "".join(f"{line}\n" for headers, samples in families.values() for line in (*headers, *samples))


def joined_info(infos: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """What one server says, the first, with all of them beside it as `servers`."""
    return {**next(iter(infos.values())), "servers": infos}
