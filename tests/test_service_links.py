"""Variables that are not meant as settings: those by which Kubernetes tells every pod of every Service, and
empty ones.
"""

import importlib
import pkgutil

import pytest
from pydantic_settings import BaseSettings

from cluster.errors import StartUpError
from cluster.settings import EnvironmentSettings, load_settings
from router.settings import RouterSettings

PACKAGES = ("cluster", "workers", "router", "loadtest")
REQUIRED = {"DoctorSettings": {"log": "-"}, "SimSettings": {"model": "/"}}


def settings_classes():
    """Those of all commands."""
    for package in PACKAGES:
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if module.name.rpartition(".")[2] in ("settings", "serve_settings"):
                importlib.import_module(module.name)
    found, seen = [BaseSettings], set()
    while found:
        for one in found.pop().__subclasses__():
            found.append(one)
            if one.__module__.partition(".")[0] in PACKAGES:
                seen.add(one)
    return sorted(seen, key=lambda one: one.__name__)


def service_links(service, protocol="tcp"):
    """What Kubernetes sets for a Service of this name."""
    name = service.upper().replace("-", "_")
    port = f"{name}_PORT_8000_{protocol.upper()}"
    return {
        f"{name}_SERVICE_HOST": "10.0.0.1",
        f"{name}_SERVICE_PORT": "8000",
        f"{name}_SERVICE_PORT_HTTP": "8000",
        f"{name}_PORT": f"{protocol}://10.0.0.1:8000",
        port: f"{protocol}://10.0.0.1:8000",
        f"{port}_PROTO": protocol,
        f"{port}_PORT": "8000",
        f"{port}_ADDR": "10.0.0.1",
    }


def test_commands_have_settings_of_one_kind():
    """So that what holds for one holds for all."""
    names = {one.__name__ for one in settings_classes()}
    assert names >= {"RouterSettings", "ServeSettings", "WorkerSettings", "SimSettings", "TrialSettings"}
    assert all(issubclass(one, EnvironmentSettings) for one in settings_classes())


@pytest.mark.parametrize("settings", settings_classes(), ids=lambda one: one.__name__)
@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp"])
def test_services_change_no_settings(settings, protocol, monkeypatch):
    """Whatever a Service is called, every command starts beside it as it does elsewhere."""
    given = REQUIRED.get(settings.__name__, {})
    expected = load_settings(settings, **given)
    for service in ("warmroute", "warmroute-router", "warmroute-sim", "warmroute-engine", "warmroute-redis"):
        for name, value in service_links(service, protocol).items():
            monkeypatch.setenv(name, value)
    assert load_settings(settings, **given) == expected


@pytest.mark.parametrize("settings", settings_classes(), ids=lambda one: one.__name__)
def test_empty_variables_are_none(settings, monkeypatch):
    """Charts and compose files set them for values that were left out: the default holds."""
    given = REQUIRED.get(settings.__name__, {})
    expected = load_settings(settings, **given)
    for name in settings.model_fields:
        monkeypatch.setenv(f"{settings.model_config['env_prefix']}{name}".upper(), "")
    assert load_settings(settings, **given) == expected


def test_port_of_ones_own(monkeypatch):
    """A variable that holds a port counts; one that holds neither is named."""
    monkeypatch.setenv("WARMROUTE_PORT", "8001")
    assert load_settings(RouterSettings).port == 8001
    monkeypatch.setenv("WARMROUTE_PORT", "http://x")
    with pytest.raises(StartUpError, match="WARMROUTE_PORT"):
        load_settings(RouterSettings)
