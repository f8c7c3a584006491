"""A warm request goes through few of our modules: ``pytest -s`` on this file lists them."""

import sys
from pathlib import Path

from cluster.prompts.tokenizer import PromptTokenizer
from tests.router.fake_engine import counted

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cluster", "policies", "router")
MAX_MODULES = 51
"""As many as it takes today; whoever adds one to every request says here why: the last one is
`router.tenants.cache_scopes`, since a reset must hold for every request."""
BODY = {"model": "m", "messages": [{"role": "user", "content": "What is a KV cache? " * 8}]}


async def test_a_warm_request_enters_few_modules(start_router, engines, tiny_model):
    """Those that every one of five equal requests enters, after others have gone before."""
    for engine in engines:
        engine.otherwise = counted(len(PromptTokenizer(tiny_model).chat(BODY).token_ids))
    router = await start_router(*engines, policy="warm")
    await router.settled()
    entered = set()

    def note(frame, kind, _):
        if kind == "call":
            entered.add(frame.f_code.co_filename)

    rounds = []
    for number in range(8):
        entered.clear()
        sys.setprofile(note)
        try:
            async with router.post(BODY) as response:
                assert response.status == 200
                await response.read()
        finally:
            sys.setprofile(None)
        if number >= 3:
            rounds.append(set(entered))
    modules = sorted(
        path.relative_to(ROOT).as_posix()
        for path in map(Path, set.intersection(*rounds))
        if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in PACKAGES
    )
    sys.stdout.write(f"{len(modules)} modules: {' '.join(modules)}\n")
    assert len(modules) <= MAX_MODULES
