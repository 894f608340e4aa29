"""What every route may use, made once when an API process starts."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.requests import Request

    from embedway.api.served_models import ServedModel
    from embedway.config import Settings
    from embedway.engine.client import EngineClient
    from embedway.inputs.sequences import SequenceMaker
    from embedway.observability.metrics import Metrics


@dataclass(frozen=True, slots=True)
class ApiContext:
    settings: Settings
    model: ServedModel
    sequences: SequenceMaker
    engine: EngineClient
    metrics: Metrics
    started_at: int = field(default_factory=lambda: int(time.time()))
    """Unix seconds"""


def context_of(request: Request) -> ApiContext:
    return request.app.state.context
