"""Fixtures that several folders of tests share."""

import gc
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from tests.redis_process import RedisProcess, running_redis
from tests.tiny_model import build_tiny_model

settings.register_profile(
    "long",
    max_examples=300,
    stateful_step_count=50,
    deadline=None,  # the machine is shared: a slow example is no failure
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "short",
    settings.get_profile("long"),
    max_examples=25,
    stateful_step_count=25,
    derandomize=True,  # the same examples in every run; `make test-long` searches for more
)
settings.load_profile("short")

REAL_ENGINES = (
    "tests/cluster/test_model_files.py",
    "tests/integration/test_serve.py",
    "tests/conformance/test_conformance.py",
    "tests/rendering/test_real_engine.py",
    "tests/integration/test_reused_answers.py",
    "tests/clients/test_agent_packages.py",
    "tests/router/test_vllm_agent_prompts.py",
)
"""Modules with tests marked ``vllm``, in their order. One process of a test run runs them all: two engines at
once are too slow for both.
"""
LONGEST = ("chaos", "integration")
"""Markers of modules that begin next, so that none is left alone at the end."""


def pytest_configure(config: pytest.Config) -> None:
    """A shell that starts ``make test`` in the background ignores SIGINT for it: tests must not.

    Without tests of real engines, spare each process torch: importing it takes 5 s of CPU time.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if "not vllm and not integration" in config.option.markexpr:
        from cluster.prompts.tokenizer import forgo_torch

        forgo_torch()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the modules that take longest first."""
    order = {name: number - len(REAL_ENGINES) for number, name in enumerate(REAL_ENGINES)}
    for item in items:
        marks = [number for number, name in enumerate(LONGEST) if item.get_closest_marker(name)]
        module = _module(item.nodeid)
        order[module] = min([*marks, order.get(module, len(LONGEST))])
    items.sort(key=lambda item: order[_module(item.nodeid)])


def pytest_collection_finish(session: pytest.Session) -> None:
    """Spare garbage collections a million objects that stay: they took a third of the CPU time of tests."""
    vllm = {_module(item.nodeid) for item in session.items if item.get_closest_marker("vllm")}
    assert vllm <= set(REAL_ENGINES), "a module is missing in REAL_ENGINES"
    gc.collect()
    gc.freeze()


def _module(nodeid: str) -> str:
    return nodeid.partition("::")[0]


class InOrder(LoadFileScheduling):
    """Modules in the order in which they were collected, and all with real engines as if they were one."""

    def _split_scope(self, nodeid: str) -> str:
        scope = super()._split_scope(nodeid)
        return "real engines" if scope in REAL_ENGINES else scope


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> InOrder | None:
    """For ``--dist loadfile``."""
    if config.option.dist != "loadfile":
        return None
    config.option.loadscopereorder = False
    return InOrder(config, log)


@pytest.fixture(scope="session")
def real_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of a vLLM with the small model as ``m``, which renders with templates of requests."""
    from tests.conformance.vllm_engine import vllm_engine

    log = tmp_path_factory.mktemp("vllm") / "engine.log"
    with vllm_engine(log, "--enable-scale-out", "--trust-request-chat-template") as port:
        yield port


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a model with a real tokenizer and chat template, without weights."""
    return build_tiny_model(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """One server for all tests that only read and write."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server
