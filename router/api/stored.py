"""The Responses API where responses are kept: continued, fetched, deleted, cancelled, made in the background.

Only while `WARMROUTE_STORED_RESPONSES` says so. Whatever belongs to another tenant is not found.
"""

import asyncio
import dataclasses
from contextlib import suppress
from dataclasses import dataclass
from secrets import token_hex

import msgspec

from cluster.store.commands import RedisClient
from router.api.background import Background, EventSource, Unread, events_of, failed, forget
from router.api.generate import GenerationEndpoint, RouterApplication
from router.api.keeper import Keeper
from router.api.stored_routes import stored_routes
from router.errors import ApiError, NotFoundError, OverloadedError
from router.history.record import RequestRecord
from router.http.answer_ways import Client
from router.http.sse import UNREADABLE
from router.requests.bodies import THREAD_SECONDS, parse_seconds
from router.requests.schema import RESPONSES_PATH
from router.stored.history import StoredResponses, Turn
from router.stored.vault import MemoryVault, RedisVault

MAX_BACKGROUND = 256
"""Responses that one router generates in the background."""


@dataclass(slots=True, eq=False, repr=False)
class StoredEndpoint(GenerationEndpoint):
    """Answers ``POST /v1/responses``."""

    stored: StoredResponses
    tasks: set[asyncio.Task[None]]

    async def _answer(
        self,
        raw: bytes,
        headers: dict[bytes, bytes],
        record: RequestRecord,
        client: Client,
        kept: Keeper | None = None,
    ) -> None:
        turn = None
        with suppress(*UNREADABLE):  # else the engine says what is wrong with it
            readable = parse_seconds(raw) <= THREAD_SECONDS
            if readable and isinstance(fields := msgspec.json.decode(raw), dict):
                turn = await self.stored.open(record.tenant, fields)
        if turn is None:
            await GenerationEndpoint._answer(self, raw, headers, record, client)
        elif not turn.background:
            kept = Keeper(self.stored, turn)
            await GenerationEndpoint._answer(self, turn.body, headers, record, client, kept)
        else:
            await self._start(turn, headers, record, client)

    async def _start(
        self, turn: Turn, headers: dict[bytes, bytes], record: RequestRecord, client: Client
    ) -> None:
        if len(self.tasks) >= MAX_BACKGROUND:
            raise OverloadedError("This router generates as many responses in the background as it may.")
        background = Background(self.stored, turn, client.party)
        await background.flush()
        response = await self.stored.begin(turn)
        own = RequestRecord(token_hex(16), record.path, tenant=record.tenant, rights=record.rights)
        task = asyncio.create_task(self._generate(background, headers, own))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        record.outcome, record.status = "ok", 200
        about = {"content-type": "application/json", "x-request-id": record.request_id}
        if turn.fields.get("stream"):
            about["content-type"] = "text/event-stream; charset=utf-8"
            source = EventSource(events_of(self.stored, turn.owner, turn.id))
            try:
                await client.relay(200, about, source, Unread(keep_usage=True))
            finally:
                source.close()
            await client.end(b"")
        else:
            await client.reply(200, about, msgspec.json.encode(response))

    async def _generate(
        self, background: Background, headers: dict[bytes, bytes], record: RequestRecord
    ) -> None:
        stored, turn = self.stored, background.turn
        answering = asyncio.create_task(
            GenerationEndpoint._answer(self, turn.body, headers, record, background, Keeper(stored, turn))
        )
        flushing = asyncio.create_task(background.flush_until_cancelled())
        try:
            await asyncio.wait([answering, flushing], return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
            else:
                record.outcome = "cancelled"
                flushing.result()
        except ApiError as error:
            record.outcome, record.status, record.error = error.outcome, error.status, error.message
        finally:
            record.outcome = record.outcome or "failed"
            for task in (answering, flushing):
                task.cancel()
            await asyncio.gather(answering, flushing, return_exceptions=True)
            with suppress(ApiError):
                await self._end(background, background.error or record.error)
            self.accounts.finish(record)

    async def _end(self, background: Background, why: str) -> None:
        """Say why it failed, if it did; of a response that has been deleted nothing stays."""
        stored, turn = self.stored, background.turn
        try:
            response = (await stored.record(turn.owner, turn.id)).response
        except NotFoundError:
            await forget(stored, turn.owner, turn.id)
            return
        if why:
            await stored.finish(turn, failed(response, why))
        await stored.vault.remove(turn.owner, f"{turn.id}.alive")


def keep_responses(app: RouterApplication, redis: RedisClient, tasks: set[asyncio.Task[None]]) -> None:
    """Let the router keep responses; those in the background are made in ``tasks``."""
    settings, stateless = app.settings, app.endpoints[RESPONSES_PATH]
    assert isinstance(stateless, GenerationEndpoint)
    in_redis = settings.stored_responses == "redis"
    vault = RedisVault(settings, redis, settings.keys) if in_redis else MemoryVault(settings)
    stored = StoredResponses(vault, settings.stored_bytes, settings.token_exact)
    shared = {one.name: getattr(stateless, one.name) for one in dataclasses.fields(GenerationEndpoint)}
    app.endpoints[RESPONSES_PATH] = StoredEndpoint(**shared, stored=stored, tasks=tasks)
    app.router.routes.extend(stored_routes(stored, stateless.authenticate, settings.max_body_bytes).routes)
