"""Files for Kubernetes, KubeRay and compose: valid whatever is chosen, wrong values are refused by name."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cluster.serve.serve_settings import ServeSettings
from cluster.settings import load_settings
from router.settings import RouterSettings
from tests.infra.tools import helm, kubernetes_validate
from workers.settings import WorkerSettings

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "infra" / "helm" / "warmroute"
pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ENGINES = {
    "engines": {"urls": ["http://vllm-0.vllm:8000", "http://vllm-1.vllm:8000"], "podLabels": {"app": "vllm"}}
}
REDIS = {
    "deployed": {"redis": {"deploy": True}},
    "given": {"redis": {"url": "rediss://redis:6380/1"}},
    "secret": {"redis": {"urlSecret": {"name": "redis", "key": "url"}}},
}
SECRETS = {
    name: {"name": "secrets", "key": name}
    for name in ("apiKeysSecret", "apiKeysFileSecret", "adminTokenSecret", "storedKeysSecret")
}
OPTIONS = [
    {},
    {"autoscaling": {"enabled": True}},
    {"networkPolicy": {"enabled": True}},
    {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
    {"prometheusRule": {"enabled": True}, "grafanaDashboard": {"enabled": True}},
    {
        "podDisruptionBudget": {"enabled": False},
        "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
    },
    {"router": SECRETS},
    {
        "router": {
            "env": {"WARMROUTE_MAX_ATTEMPTS": 2, "WARMROUTE_OPEN_METRICS": True},
            "nodeSelector": {"a": "b"},
        }
    },
    {"agent": {"labels": {"region": "eu", "class": "large"}}},
    {
        "models": {
            "volume": {"name": "models", "persistentVolumeClaim": {"claimName": "models", "readOnly": True}}
        }
    },
    {"imagePullSecrets": [{"name": "registry"}], "image": {"repository": "r.example/w", "tag": "1"}},
]
WRONG = [
    (REDIS["deployed"], "engines.urls is empty"),
    ({"engines": {"urls": ["vllm:8000"]}, "redis": {"deploy": True}}, "/engines/urls/0"),
    ({"engines": {"urls": ["http://a:1", "http://a:1"]}, "redis": {"deploy": True}}, "names an engine twice"),
    (ENGINES, "exactly one of redis.url"),
    ({**ENGINES, "redis": {"deploy": True, "url": "redis://x"}}, "exactly one of redis.url"),
    ({**ENGINES, "redis": {"url": "http://x"}}, "/redis/url"),
    ({**ENGINES, **REDIS["given"], "router": {"replica": 3}}, "replica"),
    ({**ENGINES, **REDIS["given"], "router": {"replicas": 0}}, "/router/replicas"),
    ({**ENGINES, **REDIS["given"], "router": {"adminTokenSecret": {"name": "x"}}}, "adminTokenSecret"),
    ({**ENGINES, **REDIS["given"], "autoscaling": {"cpuPercent": 200}}, "cpuPercent"),
    ({**ENGINES, **REDIS["given"], "service": {"type": "Cluster"}}, "/service/type"),
    (
        {"engines": {"urls": ["http://a:1"]}, **REDIS["given"], "networkPolicy": {"enabled": True}},
        "engines.podLabels",
    ),
]  # fmt: skip


def rendered(folder, values):
    """What helm makes of these values, or what it says."""
    file = folder / "values.json"
    file.write_text(json.dumps(values))
    command = [helm(), "template", "release", CHART, "--namespace", "serving", "--values", file]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def all_rendered(tmp_path_factory):
    """Every combination of a Redis and an option, as lists of objects."""
    folder = tmp_path_factory.mktemp("helm")
    found = []
    for redis, option in itertools.product(REDIS.values(), OPTIONS):
        done = rendered(folder, {**ENGINES, **redis, **option})
        assert done.returncode == 0, done.stderr
        found.append([one for one in yaml.safe_load_all(done.stdout) if one])
    return found


def test_every_combination_is_valid(all_rendered, tmp_path):
    """By Kubernetes' own schemas, strictly: 33 combinations. Objects of operators are not in these."""
    for number, objects in enumerate(all_rendered):
        known = [one for one in objects if not one["apiVersion"].startswith("monitoring")]
        assert len(known) >= 4
        (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump_all(known))
    environment = {**os.environ, "PYTHONPATH": str(kubernetes_validate())}
    command = [
        sys.executable,
        "-m",
        "kubernetes_validate",
        "--strict",
        "--quiet",
        *sorted(tmp_path.glob("*.yaml")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def test_containers_are_confined_and_settings_exist(all_rendered):
    """Nobody is root, file systems are read-only, no secret is a plain value, each variable is a setting."""
    settings = {
        f"WARMROUTE_{name.upper()}" for kind in (RouterSettings, WorkerSettings) for name in kind.model_fields
    }
    pods = [
        one["spec"]["template"]["spec"]
        for each in all_rendered
        for one in each
        if one["kind"] == "Deployment"
    ]
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"]
        [container] = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        names = [variable["name"] for variable in container.get("env", ())]
        assert len(names) == len(set(names)) or "WARMROUTE_OPEN_METRICS" in names
        assert {name for name in names if name.startswith("WARMROUTE_")} <= settings
        secret = {
            "WARMROUTE_ADMIN_TOKEN",
            "WARMROUTE_API_KEYS",
            "WARMROUTE_STORED_KEYS",
            "WARMROUTE_ENGINE_API_KEY",
        }
        for variable in container.get("env", ()):
            assert variable["name"] not in secret or "valueFrom" in variable


def test_names_that_belong_together(all_rendered):
    """Services find their pods, and Redis' address is that of its service."""
    for objects in all_rendered:
        pods = [
            one["spec"]["template"]["metadata"]["labels"] for one in objects if one["kind"] == "Deployment"
        ]
        services = {one["metadata"]["name"]: one["spec"] for one in objects if one["kind"] == "Service"}
        for service in services.values():
            assert sum(service["selector"].items() <= labels.items() for labels in pods) == 1
        text = json.dumps(objects)
        for host in re.findall(r"redis://([\w-]+):6379", text):
            assert host in services


@pytest.mark.parametrize(("values", "said"), WRONG)
def test_wrong_values_are_refused(tmp_path, values, said):
    """With the place."""
    done = rendered(tmp_path, values)
    assert done.returncode != 0
    assert said in done.stderr.replace("'", ""), done.stderr


def test_kuberay_deploys_what_there_is():
    """The applications' builders exist and take these arguments."""
    from cluster.serve import serve_app

    [service] = yaml.safe_load_all((ROOT / "infra/kuberay/rayservice.yaml").read_text())
    applications = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    settings = {"replicas": ServeSettings, "routers": RouterSettings}
    for application in applications:
        module, _, builder = application["import_path"].partition(":")
        assert module == "cluster.serve.serve_app"
        assert hasattr(serve_app, builder)
        arguments = {name: one for name, one in application["args"].items() if name != "routers"}
        load_settings(settings[builder], **arguments)
        assert set(arguments) <= set(settings[builder].model_fields)
    [group] = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    [container] = group["template"]["spec"]["containers"]
    assert {"name": "serve", "containerPort": 8000} in container["ports"]


def test_compose_names_what_there_is():
    """Services wait for services that exist, and only the router is reached from outside."""
    file = yaml.safe_load((ROOT / "infra/compose/compose.yaml").read_text())
    services = file["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["router"]
    assert services["router"]["ports"] == ["127.0.0.1:8000:8000"]
    for service in services.values():
        assert set(service.get("depends_on", ())) <= set(services)
        for url in re.findall(r"http://([\w-]+):", " ".join(map(str, service["command"]))):
            assert url in services
    assert file["networks"]["engines"]["internal"]


def test_container_files_copy_what_there_is():
    """Every path that an image takes from the repository exists."""
    for line in (ROOT / "infra/containers/Containerfile").read_text().splitlines():
        if line.startswith("COPY"):
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), line
