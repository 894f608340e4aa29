"""The files under deploy/ray are what Ray and Embedway read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.filterwarnings("ignore")

FOLDER = Path(__file__).parents[2] / "deploy" / "ray"


def configs() -> dict[str, Any]:
    service = yaml.safe_load((FOLDER / "rayservice.yaml").read_text())
    return {
        "serve_config.yaml": yaml.safe_load((FOLDER / "serve_config.yaml").read_text()),
        "rayservice.yaml": yaml.safe_load(service["spec"]["serveConfigV2"]),
    }


@pytest.mark.parametrize("name", ["serve_config.yaml", "rayservice.yaml"])
def test_ray_and_we_read_the_config(name: str) -> None:
    from ray.serve.schema import ServeDeploySchema

    from embedway.cluster import app

    read = ServeDeploySchema.model_validate(configs()[name])
    [application] = read.applications
    module, _, function = application.import_path.partition(":")
    assert getattr(__import__(module, fromlist=[function]), function) is app.build
    built = app.build(app.ClusterSettings.model_validate(application.args))
    assert built is not None


def test_the_cluster_has_the_ray_that_is_tested() -> None:
    import ray

    service = yaml.safe_load((FOLDER / "rayservice.yaml").read_text())
    assert service["spec"]["rayClusterConfig"]["rayVersion"] == ray.__version__


def test_a_worker_has_room_for_a_replica() -> None:
    service = yaml.safe_load((FOLDER / "rayservice.yaml").read_text())
    [group] = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    [container] = group["template"]["spec"]["containers"]
    [application] = configs()["rayservice.yaml"]["applications"]
    cpus = float(container["resources"]["requests"]["cpu"])
    assert cpus >= application["args"]["cpus"] + 0.5
    assert group["maxReplicas"] >= application["args"]["max_replicas"] * application["args"]["cpus"] / cpus - 1
