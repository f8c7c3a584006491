"""Fixtures that several folders of tests share."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

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


def pytest_configure() -> None:
    """A shell that starts ``make test`` in the background ignores SIGINT for it: tests must not."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _one_real_engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Let the processes of a test run start real engines in turn: two at once are too slow for both."""
    if request.node.get_closest_marker("vllm") is None:
        yield
        return
    shared = tmp_path_factory.getbasetemp().parent  # by all processes of this run
    with FileLock(shared / "real-engine.lock"):
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a model with a real tokenizer and chat template, without weights."""
    return build_tiny_model(tmp_path_factory.mktemp("tiny-model"))
