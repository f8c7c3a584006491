"""An engine that counts prompt tokens in its own way where a client wants it to: stands before another one.

    python -m tests.hostile.front PORT ENGINE_URL

What a user named "odd" asks it answers itself, and says that the prompt had very many tokens; everything else
is passed on.
"""

import asyncio
import sys

import aiohttp
import msgspec
from aiohttp import web

MANY_TOKENS = 4321
CHOICES = [
    {"index": 0, "text": "a", "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}
]
USAGE = {"prompt_tokens": MANY_TOKENS, "completion_tokens": 1, "total_tokens": MANY_TOKENS + 1}
ODD = {"id": "x", "object": "chat.completion", "model": "tiny", "choices": CHOICES, "usage": USAGE}


async def main(port: int, engine: str) -> None:
    """Serve until ended."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:

        async def answer(request: web.Request) -> web.Response:
            body = await request.read()
            if request.method == "POST" and msgspec.json.decode(body).get("user") == "odd":
                return web.json_response(ODD)
            headers = {"Content-Type": request.content_type}
            async with session.request(
                request.method, engine + request.path_qs, data=body or None, headers=headers
            ) as reply:
                return web.Response(
                    status=reply.status, body=await reply.read(), content_type=reply.content_type
                )

        application = web.Application(client_max_size=32 * 2**20)
        application.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
