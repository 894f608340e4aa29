"""The Ray Serve application: an ingress, and a deployment for each model.

`build` is what a Serve config file names (`import_path: embedway.cluster.app:build`), with `ClusterSettings` as its
`args`; `embedway serve --ray` runs the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig
from ray.serve.deployment import Application
from ray.serve.schema import LoggingConfig

from embedway.cluster.affinity_router import AffinityRouter
from embedway.cluster.autoscaling import TARGET_TOKENS, ByQueuedTokens
from embedway.cluster.ingress import Ingress
from embedway.cluster.replica import DRAIN_SECONDS, ModelReplica
from embedway.config import Settings, load_settings
from embedway.model_settings import models_of, names_of
from embedway.serve import read_keys

QUIET = LoggingConfig(enable_access_log=False)
OF_RAY = ("ray", "ray_address", "ray_replicas", "ray_cpus")
NOT_OF_A_REPLICA = (*OF_RAY, "models", "host", "port", "data_dir")
LOOK_BACK_SECONDS = 15.0
"""More than Serve's interval between two of a replica's statistics"""
MAX_ONGOING = 4096
"""Requests at a replica: its own admission says when it is enough"""


class ClusterSettings(BaseModel):
    """What of an application is Ray's. All else is `settings`, those of `embedway serve`."""

    model_config = ConfigDict(extra="forbid")

    settings: dict[str, Any] = {}
    min_replicas: int = Field(1, ge=1)
    """Of each model"""
    max_replicas: int = Field(1, ge=1)
    target_tokens: float = Field(TARGET_TOKENS, gt=0)
    """Tokens that a replica may hold before there is another one"""
    upscale_delay_s: float = Field(5.0, ge=0)
    downscale_delay_s: float = Field(120.0, ge=0)
    cpus: float = Field(1.0, gt=0)
    """Of a replica; also the threads of its model, unless the settings say otherwise"""
    gpus: float = Field(0.0, ge=0)
    ingress_replicas: int = Field(1, ge=1)
    ingress_cpus: float = Field(0.5, ge=0)
    ingress_resources: dict[str, float] = {}
    """Ray's other resources that the ingress takes: those of one node keep it there"""


def build(args: ClusterSettings) -> Application:
    """Raises InvalidSetting."""
    settings = load_settings(dict(args.settings))
    models = models_of(settings)
    keys = {f"model_{i}": model for i, model in enumerate(models)}
    deployments = {}
    for key, model in keys.items():
        values = {"threads": max(1, round(args.cpus)), **plain(model, without=NOT_OF_A_REPLICA)}
        deployments[key] = deployment_of(args, key, model.model_path).bind(values)
    front = serve.deployment(
        name="ingress",
        num_replicas=args.ingress_replicas,
        max_ongoing_requests=MAX_ONGOING,
        ray_actor_options={"num_cpus": args.ingress_cpus, "resources": args.ingress_resources},
        logging_config=QUIET,
    )(Ingress)
    names = {key: names_of(model) for key, model in keys.items()}
    return front.bind(names, keys=read_keys(settings), max_body_mb=settings.max_body_mb, **deployments)


def plain(settings: Settings, *, without: Iterable[str]) -> dict[str, Any]:
    """What was given, as `load_settings` takes it; keys are in clear."""
    values = settings.model_dump(mode="json", exclude_unset=True, exclude=set(without))
    if "api_key" in values:
        values["api_key"] = [key.get_secret_value() for key in settings.api_key]
    if settings.admin_api_key is not None:
        values["admin_api_key"] = settings.admin_api_key.get_secret_value()
    return values


def deployment_of(args: ClusterSettings, key: str, model_path: str) -> serve.Deployment:
    return serve.deployment(
        name=f"{key}_{re.sub(r'[^A-Za-z0-9_.-]+', '-', model_path)}",
        max_ongoing_requests=MAX_ONGOING,
        autoscaling_config=AutoscalingConfig(
            min_replicas=args.min_replicas,
            max_replicas=max(args.min_replicas, args.max_replicas),
            upscale_delay_s=args.upscale_delay_s,
            downscale_delay_s=args.downscale_delay_s,
            look_back_period_s=max(LOOK_BACK_SECONDS, args.upscale_delay_s),
            policy=AutoscalingPolicy(
                policy_function=ByQueuedTokens, policy_kwargs={"target_tokens": args.target_tokens}
            ),
        ),
        request_router_config=RequestRouterConfig.model_validate({"request_router_class": AffinityRouter}),
        health_check_period_s=5.0,
        health_check_timeout_s=30.0,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=DRAIN_SECONDS,
        ray_actor_options={"num_cpus": args.cpus, "num_gpus": args.gpus},
        logging_config=QUIET,
    )(ModelReplica)
