"""Asks every replica of a model the same thing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ray.serve.exceptions import DeploymentUnavailableError

from embedway.cluster.joined_answers import Said
from embedway.errors import EngineNotReady

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

PATIENCE_SECONDS = 30.0
"""A replica that says nothing for so long is left out"""


async def ask_every(
    handle: DeploymentHandle, method: str, path: str, headers: Mapping[str, str], body: bytes
) -> list[Said]:
    """What the replicas of a model say; those that are lost meanwhile are left out. Raises EngineNotReady where all
    are."""
    try:
        response = handle.broadcast("answer_as", method, path, headers, body)
        results = await response.results_async(timeout_s=PATIENCE_SECONDS, return_exceptions=True)
    except (DeploymentUnavailableError, TimeoutError):
        results = []
    said = [Said(*result) for result in results if not isinstance(result, BaseException)]
    if not said:
        raise EngineNotReady(state="no replica of it answers")
    return said
