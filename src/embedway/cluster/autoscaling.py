"""How many replicas a model has: by the tokens that are admitted and not answered yet."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

QUEUED_TOKENS = "queued_tokens"
"""The name of the statistic that replicas give"""
TARGET_TOKENS = 20_000.0


class ByQueuedTokens:
    """Ray Serve's policy: as many replicas as hold `target_tokens` each, or fewer. A replica without news counts none.

    Serve itself waits for its upscale and downscale delays, and keeps to the bounds.
    """

    def __init__(self, target_tokens: float = TARGET_TOKENS) -> None:
        self._target_tokens = target_tokens

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        held = (context.aggregated_metrics or {}).get(QUEUED_TOKENS, {})
        return wanted_replicas(sum(held.values()), self._target_tokens), {}


def wanted_replicas(tokens: float, target_tokens: float) -> int:
    return max(1, math.ceil(tokens / target_tokens))
