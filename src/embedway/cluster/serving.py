"""`embedway serve --ray`: the application on a cluster that is there, or on one of this machine alone."""

from __future__ import annotations

import logging
import os
import signal
import threading

import ray
from ray import serve
from rich.console import Console

from embedway.cluster.app import OF_RAY, ClusterSettings, build, plain
from embedway.config import Settings
from embedway.errors import ClusterFailed
from embedway.model_settings import models_of, names_of

APPLICATION = "embedway"


def serve_on_ray(settings: Settings) -> int:
    """Serve until SIGINT or SIGTERM, then drain; return the exit status. Raises InvalidSetting or ClusterFailed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
    application = build(cluster_settings(settings))
    ended = threading.Event()
    try:
        ray.init(
            address=settings.ray_address,
            include_dashboard=None if settings.ray_address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        for number in (signal.SIGINT, signal.SIGTERM):  # Ray has just set its own, which end the process
            signal.signal(number, lambda *_: ended.set())
        serve.start(http_options={"host": settings.host, "port": settings.port})
        serve.run(application, name=APPLICATION, route_prefix="/")
    except (ConnectionError, RuntimeError) as error:
        raise ClusterFailed(problem=" ".join(str(error).split())) from error
    names = ", ".join(name for model in models_of(settings) for name in names_of(model))
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"Embedway on Ray is ready at http://{settings.host}:{settings.port}, serving {names}")
    ended.wait()
    serve.delete(APPLICATION)  # replicas finish what they have
    if not settings.ray_address:
        serve.shutdown()
    ray.shutdown()
    return 0


def cluster_settings(settings: Settings) -> ClusterSettings:
    fewest, _, most = settings.ray_replicas.partition("-")
    return ClusterSettings(
        settings=plain(settings, without=OF_RAY),
        min_replicas=int(fewest),
        max_replicas=int(most or fewest),
        cpus=settings.ray_cpus,
    )
