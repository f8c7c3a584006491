"""Random requests rendered by the router and by vLLM: how many differ.

    python -m tests.rendering [--count 1000] [--seed 1] [--engine URL]

Without an engine vLLM's own renderer runs in this process, with the options of every server in
`tests.rendering.comparison`. An engine needs ``--enable-scale-out --trust-request-chat-template
--enable-auto-tool-choice --tool-call-parser hermes`` and the small model: each request then takes a template
along.
"""

import argparse
import asyncio
import sys
from collections.abc import Mapping
from typing import Any

import aiohttp
from hypothesis import HealthCheck, Phase, given, seed, settings

from cluster.prompts.chat_rendering import ChatOptions
from cluster.prompts.tokenizer import PromptTokenizer
from tests.rendering.chat_requests import REQUESTS
from tests.rendering.comparison import OPTIONS, Engine, Tally, compare
from tests.rendering.vllm_renderer import VllmRenderer
from tests.small_model import small_model


class Server:
    """A running vLLM. What a chat becomes its render endpoint says, and ``/tokenize`` where that takes it."""

    def __init__(self, url: str, session: aiohttp.ClientSession, options: ChatOptions) -> None:
        self._url, self._session, self._options = url, session, options

    async def __call__(self, body: Mapping[str, Any]) -> list[list[int]] | None:
        """The token ids of all prompts of a request; None when it is refused."""
        path = "/v1/chat/completions/render" if "messages" in body else "/v1/completions/render"
        sent = dict(body)
        if "messages" in body and self._options.chat_template is not None:
            sent = {"chat_template": self._options.chat_template.read_text()} | sent
        async with self._session.post(self._url + path, json=sent) as response:
            answer = await response.json() if response.status == 200 else None
        if answer is None:
            return None
        return [one["token_ids"] for one in (answer if isinstance(answer, list) else [answer])]


async def bodies(count: int, number: int) -> list[dict[str, Any]]:
    """So many random requests."""
    found: list[dict[str, Any]] = []

    @seed(number)
    @settings(
        max_examples=count, phases=[Phase.generate], database=None, suppress_health_check=list(HealthCheck)
    )
    @given(REQUESTS)
    def collect(body: dict[str, Any]) -> None:
        found.append(body)

    collect()
    return found[:count]


async def main(count: int, number: int, url: str) -> int:
    """The number of differences that the router would not have noticed."""
    servers = {name: options for name, options in OPTIONS.items() if not url or in_request(options)}
    model, total = small_model(weights=False), Tally()
    connector = aiohttp.TCPConnector(force_close=True)  # the engine closes idle ones after 5 s
    async with aiohttp.ClientSession(connector=connector) as session:
        for at, (name, options) in enumerate(servers.items()):
            tokenizer = PromptTokenizer(model, options=options)
            engine: Engine = Server(url, session, options) if url else VllmRenderer(model, options)
            tally = Tally()
            for body in await bodies(-(-count // len(servers)), number + at):
                await compare(tokenizer, engine, body, tally)
            sys.stdout.write(f"{name}: {dict(tally.outcomes)} {dict(tally.declared.most_common(9))}\n")
            total.outcomes += tally.outcomes
            total.differences += tally.differences
    sys.stdout.write("\n\n".join(["", *total.differences[:20], f"all: {dict(total.outcomes)}", ""]))
    return total.outcomes["DIFFERENT"]


def in_request(options: ChatOptions) -> bool:
    """Whether a server without options renders so, given the template with each request."""
    return options == ChatOptions(options.chat_template)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", default="", metavar="URL")
    given_ = parser.parse_args()
    sys.exit(asyncio.run(main(given_.count, given_.seed, given_.engine.rstrip("/"))) > 0)
