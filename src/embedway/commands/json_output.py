"""Results for scripts: one JSON document on stdout, and nothing else there."""

from __future__ import annotations

import json
import sys


def print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
