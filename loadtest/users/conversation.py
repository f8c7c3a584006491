"""Users who hold conversations: they think, ask, read the answer, and ask again with all that was said."""

from typing import ClassVar

import gevent
from locust import User, task

from loadtest.scenarios.script import Message
from loadtest.users.load_test import LoadTest


class ConversationUser(User):
    """One user of a kind, who holds one conversation after the other."""

    abstract = True
    kind: ClassVar[str]
    load_test: ClassVar[LoadTest]

    @task
    def converse(self) -> None:
        """Hold one conversation. It ends early when a request fails."""
        session = self.load_test.next_session(self.kind)
        gevent.sleep(session.pause_seconds)
        num_turns = min(len(session.turns), self.load_test.options.max_turns or len(session.turns))
        tenant = "" if session.tenant is None else f"tenant-{session.tenant}"
        history = session.first_messages()
        for number in range(num_turns):
            gevent.sleep(session.turns[number].think_seconds)
            (messages, max_tokens), *burst = session.requests(number, history)
            beside = [gevent.spawn(self._ask, *request, number, tenant) for request in burst]
            try:
                answer = self._ask(messages, max_tokens, number, tenant)
                gevent.joinall(beside)
            finally:
                gevent.killall(beside)
            if answer is None:
                return
            history = [*messages, {"role": "assistant", "content": answer}]

    def _ask(self, messages: list[Message], max_tokens: int, turn: int, tenant: str) -> str | None:
        return self.load_test.ask(self.kind, messages, max_tokens, first_turn=turn == 0, user=tenant)


def user_class(kind: str, weight: int, load_test: LoadTest) -> type[ConversationUser]:
    """The class of a kind's users, as Locust picks and weighs them: ``support-bot`` is ``SupportBotUser``."""
    name = "".join(map(str.capitalize, kind.split("-"))) + "User"
    return type(name, (ConversationUser,), {"kind": kind, "weight": weight, "load_test": load_test})
