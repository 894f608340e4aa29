"""The Helm chart: its schema knows good values from bad ones, and what it makes is what the server expects."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from embedway.config import load_settings
from embedway.observability.families import FAMILIES
from embedway.version import __version__

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "embedway"
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
SCHEMA = jsonschema.Draft7Validator(json.loads((CHART / "values.schema.json").read_text(encoding="utf-8")))
KUBERNETES = "1.34.0"
needs_helm = pytest.mark.skipif(
    importlib.util.find_spec("helm_python") is None, reason="Helm's library is not installed on this platform"
)
ALL_PARTS = {
    "autoscaling": {"enabled": True},
    "serviceMonitor": {"enabled": True, "authorization": {"existingSecret": "metrics-key"}},
    "apiKeys": {"existingSecret": "keys"},
    "adminApiKey": {"existingSecret": "keys"},
    "huggingFaceToken": {"existingSecret": "hub"},
    "settings": {"ssl_certfile": "/certificates/tls.pem", "allowed_hosts": ["*.example.com"]},
}


def with_values(**changes: Any) -> dict[str, Any]:
    return {**VALUES, **changes}


def rendered(**values: Any) -> list[dict[str, Any]]:
    """The chart's resources with these values, as Helm makes them; it checks the schema, too."""
    from helm_python import Chart

    with Chart.load(CHART) as chart:
        chart.validate_schema(values)
        files = chart.render(values, name="test")
    return [document for name, text in files.items() if name.endswith(".yaml") for document in parsed(text)]


def parsed(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]


def of_kind(kind: str, documents: list[dict[str, Any]]) -> dict[str, Any]:
    [document] = [document for document in documents if document["kind"] == kind]
    return document


def test_the_schema_takes_the_chart_s_own_values_and_knows_all_of_them() -> None:
    SCHEMA.validate(VALUES)
    properties = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))["properties"]
    assert set(properties) == {*VALUES, "global"}


@needs_helm
def test_several_models_take_the_place_of_the_one(tmp_path: Path) -> None:
    models = [{"model_path": "org/a", "dtype": "float32"}, "org/b"]
    file = tmp_path / "config.yaml"
    file.write_text(of_kind("ConfigMap", rendered(settings={"models": models}))["data"]["config.yaml"])
    assert [model["model_path"] for model in load_settings({}, file).models] == ["org/a", "org/b"]


def test_the_schema_takes_what_the_pages_show() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    [shown] = re.findall(r"^```yaml\n(model:.*?)^```", page, re.MULTILINE | re.DOTALL)
    SCHEMA.validate(with_values(**yaml.safe_load(shown)))


@pytest.mark.parametrize(
    "values",
    [
        {"replica": 3},
        {"replicas": "3"},
        {"model": ""},
        {"settings": {"port": 8000}},
        {"settings": {"api_key": "secret"}},
        {"settings": {"truncate-to": "end"}},
        {"image": {"tag": "1"}},
        {"autoscaling": {"enabled": "yes"}},
    ],
    ids=str,
)
def test_the_schema_refuses_what_would_not_work(values: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        SCHEMA.validate(with_values(**values))


def test_every_value_that_a_template_reads_exists() -> None:
    read = {
        match
        for path in (CHART / "templates").iterdir()
        for match in re.findall(r"\.Values\.([\w.]+)", path.read_text(encoding="utf-8"))
    }
    assert "autoscaling.queuedTokens" in read
    optional = {"settings.ssl_certfile"}
    assert [name for name in sorted(read - optional) if not has_value(name)] == []


def has_value(path: str) -> bool:
    value: Any = VALUES
    for name in path.split("."):
        if name not in value:
            return False
        value = value[name]
    return True


def test_the_chart_s_settings_are_the_server_s() -> None:
    assert load_settings(VALUES["settings"]).drain_delay == 10


def test_the_autoscaler_looks_at_a_metric_of_the_server() -> None:
    template = (CHART / "templates" / "hpa.yaml").read_text(encoding="utf-8")
    [name] = re.findall(r"^ +name: (embedway_\w+)$", template, re.MULTILINE)
    assert name in FAMILIES


@needs_helm
def test_a_pod_may_write_to_its_volumes_only_and_has_no_rights() -> None:
    pod = of_kind("Deployment", rendered())["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/tmp", "/models"}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


@needs_helm
def test_the_configuration_is_one_that_the_server_reads(tmp_path: Path) -> None:
    documents = rendered(model="BAAI/bge-base-en-v1.5", settings={"max_queued_tokens": 5_000_000})
    file = tmp_path / "config.yaml"
    file.write_text(of_kind("ConfigMap", documents)["data"]["config.yaml"], encoding="utf-8")
    settings = load_settings({}, file)
    assert (settings.model_path, settings.max_queued_tokens) == ("BAAI/bge-base-en-v1.5", 5_000_000)
    pod = of_kind("Deployment", documents)["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > settings.drain_timeout


@needs_helm
@pytest.mark.parametrize(("tag", "expected"), [("", f"{__version__}-cpu"), ("2-cuda", "2-cuda")])
def test_the_image_is_one_that_the_release_makes(tag: str, expected: str) -> None:
    [container] = of_kind("Deployment", rendered(image={"tag": tag}))["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"ghcr.io/embedway/embedway:{expected}"
    workflow = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    assert "tags: ghcr.io/${{ github.repository }}:${{ env.VERSION }}-${{ matrix.target }}" in workflow


@needs_helm
def test_services_budgets_and_policies_select_the_pods() -> None:
    documents = rendered(**ALL_PARTS)
    labels = of_kind("Deployment", documents)["spec"]["template"]["metadata"]["labels"]
    selectors = [
        of_kind("Service", documents)["spec"]["selector"],
        of_kind("PodDisruptionBudget", documents)["spec"]["selector"]["matchLabels"],
        of_kind("NetworkPolicy", documents)["spec"]["podSelector"]["matchLabels"],
        of_kind("ServiceMonitor", documents)["spec"]["selector"]["matchLabels"],
    ]
    assert all(selector.items() <= labels.items() for selector in selectors)
    target = of_kind("HorizontalPodAutoscaler", documents)["spec"]["scaleTargetRef"]
    assert target["name"] == of_kind("Deployment", documents)["metadata"]["name"]
    assert "replicas" not in of_kind("Deployment", documents)["spec"]


@needs_helm
def test_probes_speak_https_and_come_under_an_allowed_name() -> None:
    [container] = of_kind("Deployment", rendered(**ALL_PARTS))["spec"]["template"]["spec"]["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        request = container[probe]["httpGet"]
        assert request["scheme"] == "HTTPS"
        assert request["httpHeaders"] == [{"name": "Host", "value": "probe.example.com"}]
    plain = of_kind("Deployment", rendered())["spec"]["template"]["spec"]["containers"][0]["startupProbe"]["httpGet"]
    assert plain == {"path": "/readyz", "port": "http", "scheme": "HTTP"}


@needs_helm
def test_a_closed_network_lets_nothing_out() -> None:
    policy = of_kind("NetworkPolicy", rendered(networkPolicy={"allowDownloads": False}))["spec"]
    assert policy["egress"] == []
    assert policy["policyTypes"] == ["Ingress", "Egress"]


@needs_helm
def test_helm_refuses_what_the_schema_refuses() -> None:
    from helm_python import HelmError

    with pytest.raises(HelmError, match="port"):
        rendered(settings={"port": 8000})


@needs_helm
def test_helm_finds_no_fault_in_the_chart() -> None:
    from helm_python import lint

    messages = lint(CHART, ALL_PARTS, strict=True)["messages"]
    assert [message["error"] for message in messages] == ["icon is recommended"]


@needs_helm
@pytest.mark.parametrize("values", [{}, ALL_PARTS], ids=["default", "all parts"])
def test_kubernetes_knows_every_field(values: dict[str, Any]) -> None:
    import kubernetes_validate

    documents = [document for document in rendered(**values) if document["kind"] != "ServiceMonitor"]
    assert len(documents) >= 5
    for document in documents:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
