"""What the files under deploy/ name exists: settings, flags, routes, metrics, files, and the version."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from embedway.api import health
from embedway.config import Settings, flags_of
from embedway.observability.families import FAMILIES
from embedway.version import __version__

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "embedway"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
UNIT = (DEPLOY / "systemd" / "embedway.service").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
OTHER_FLAGS = {"--config"}
HADOLINT = Path(sys.executable).with_name("hadolint")
FILES = [path for path in DEPLOY.rglob("*") if path.is_file() and path.suffix != ".json"]
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in FILES}


@pytest.mark.parametrize("name", TEXTS)
def test_every_variable_is_a_setting(name: str) -> None:
    variables = set(re.findall(r"\bEMBEDWAY_([A-Z_]+)\b", TEXTS[name]))
    assert {variable.lower() for variable in variables} <= set(Settings.model_fields)


def test_every_flag_exists() -> None:
    known = {flag for name, field in Settings.model_fields.items() for flag in flags_of(name, field)} | OTHER_FLAGS
    [start] = re.findall(r"^ExecStart=.*embedway serve (.*)$", UNIT, re.MULTILINE)
    arguments = re.findall(r"^ +- (--[a-z-]+)$", TEXTS["deploy/helm/embedway/templates/deployment.yaml"], re.MULTILINE)
    named = set(re.findall(r"--[a-z-]+", start)) | set(arguments)
    assert {"--config", "--api-key-file"} <= named <= known


def test_every_probe_asks_a_route() -> None:
    routes = {route.path for route in health.router.routes}  # ty: ignore[missing-attribute]
    probed = set(re.findall(r'"path" "(/\w+)"', TEXTS["deploy/helm/embedway/templates/deployment.yaml"]))
    probed |= set(
        re.findall(r"path: (/\w+)$", TEXTS["deploy/helm/embedway/templates/servicemonitor.yaml"], re.MULTILINE)
    )
    probed |= set(re.findall(r"\}(/\w+)\\", DOCKERFILE))
    assert {"/livez", "/readyz", "/metrics"} == probed
    assert probed <= routes


def test_every_metric_exists() -> None:
    texts = [*TEXTS.values(), (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")]
    named = {name for text in texts for name in re.findall(r"\bembedway_[a-z_]+\b", text)}
    assert "embedway_engine_queued_tokens" in named
    assert {name.removesuffix("_bucket") for name in named} <= set(FAMILIES)


def test_the_chart_is_for_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == __version__


def test_the_image_copies_what_is_there_and_let_through() -> None:
    copied = {
        name for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()
    }
    let_through = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "src" in copied
    assert [name for name in copied if not (ROOT / name).exists() or f"!{name}" not in let_through] == []


def test_both_targets_run_as_a_user_without_rights() -> None:
    assert set(re.findall(r"^FROM runtime AS (\S+)$", DOCKERFILE, re.MULTILINE)) == {"cpu", "cuda"}
    runtime, cuda, cpu = re.split(r"^FROM .*\n", DOCKERFILE.partition(" AS runtime\n")[2], flags=re.MULTILINE)
    for stage, users in ((runtime, ["10001:10001"]), (cuda, ["0:0", "10001:10001"]), (cpu, [])):
        assert re.findall(r"^USER (\S+)$", stage, re.MULTILINE) == users
        assert ("apt-get" in stage) == (stage is cuda)


def test_compose_mounts_what_is_there() -> None:
    mounts = [mount for service in COMPOSE["services"].values() for mount in service.get("volumes", [])]
    files = [mount.partition(":")[0] for mount in mounts if mount.startswith(".")]
    assert {"./prometheus.yml", "./grafana"} <= set(files)
    assert [name for name in files if not (DEPLOY / name).exists()] == []
    assert {mount.partition(":")[0] for mount in mounts if not mount.startswith(".")} == set(COMPOSE["volumes"])


def test_compose_opens_nothing_to_the_network() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service["ports"]]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_prometheus_asks_the_service_of_compose() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))
    [job] = config["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["embedway:30000"]}]
    assert "embedway" in COMPOSE["services"]


@pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint is not installed on this platform")
def test_the_dockerfile_has_no_fault_that_a_linter_knows() -> None:
    command = [str(HADOLINT), "--config", str(ROOT / ".hadolint.yaml"), str(DEPLOY / "Dockerfile")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_the_unit_and_finds_it_well_closed(tmp_path: Path) -> None:
    unit = tmp_path / "embedway.service"
    unit.write_text(UNIT.replace("/opt/embedway/bin/embedway", shutil.which("true") or "/bin/true"), encoding="utf-8")
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)]
    assessed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert assessed.returncode == 0, assessed.stdout + assessed.stderr
