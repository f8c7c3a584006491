"""Generates conversation logs: clean ones of several kinds, and the same with defects planted in them."""

import json
import random
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import datetime, timedelta

Body = dict
Log = list[Body]

VOCABULARY = [
    first + second + third
    for first in ("ba", "ko", "ti", "lu", "ser", "ma", "no", "pre", "vi", "gra")
    for second in ("ra", "le", "mi", "sto", "bu", "ne", "ka")
    for third in ("n", "ter", "lis", "do", "ving", "")
]
NAMES = (
    "Alice",
    "Bob",
    "Chandra",
    "Dmitri",
    "Elena",
    "Farid",
    "Grace",
    "Hiro",
    "Ines",
    "Jonas",
    "Kavya",
    "Liu",
)
START = datetime(2026, 3, 2, 8, 0)


def words(dice: random.Random, count: int) -> str:
    """A sentence that nobody has said before."""
    return " ".join(dice.choices(VOCABULARY, k=count))


def instructions(dice: random.Random, sentences: int = 12) -> str:
    """Instructions of one application, in paragraphs."""
    lines = [f'{words(dice, 9).capitalize()}, "{words(dice, 2)}".' for _ in range(sentences)]
    return "\n".join(lines[:4]) + "\n\n" + "\n".join(lines[4:])


def tool(dice: random.Random) -> dict:
    """A tool as the OpenAI API takes it."""
    return {
        "type": "function",
        "function": {
            "name": f"{dice.choice(VOCABULARY)}_{dice.choice(VOCABULARY)}",
            "description": words(dice, 12),
            "parameters": {
                "type": "object",
                "properties": {dice.choice(VOCABULARY): {"type": "string", "description": words(dice, 5)}},
                "required": [],
            },
        },
    }


def turns_of(dice: random.Random, opening: list[Body], turns: int, length: int = 1) -> Iterator[Body]:
    """The requests of one conversation; ``length`` makes messages longer."""
    messages = list(opening)
    for _ in range(turns):
        messages.append({"role": "user", "content": words(dice, length * dice.randint(12, 40))})
        yield {"model": "m", "messages": deepcopy(messages)}
        messages.append({"role": "assistant", "content": words(dice, length * dice.randint(15, 50))})


def chat(seed: int, conversations: int = 24) -> list[Log]:
    """Chats of three applications, each with its own instructions."""
    dice = random.Random(seed)
    openings = [[{"role": "system", "content": instructions(dice)}] for _ in range(3)]
    return [list(turns_of(dice, dice.choice(openings), dice.randint(2, 5))) for _ in range(conversations)]


def rag(seed: int, conversations: int = 24) -> list[Log]:
    """Questions about shared documents, which come in a fixed order."""
    dice = random.Random(seed)
    system = {"role": "system", "content": instructions(dice)}
    documents = [words(dice, 40) for _ in range(6)]
    logs = []
    for _ in range(conversations):
        chosen = sorted(dice.sample(range(6), 3))
        text = "\n\n".join(["Context:", *(documents[n] for n in chosen), f"Question: {words(dice, 12)}"])
        logs.append([{"model": "m", "messages": [system, {"role": "user", "content": text}]}])
    return logs


def agents(seed: int, conversations: int = 16) -> list[Log]:
    """Agents with tools: calls and their results in the history."""
    dice = random.Random(seed)
    system = {"role": "system", "content": instructions(dice)}
    tools = sorted((tool(dice) for _ in range(4)), key=lambda one: one["function"]["name"])
    logs = []
    for _ in range(conversations):
        messages = [system, {"role": "user", "content": words(dice, 20)}]
        log = []
        for _ in range(dice.randint(2, 5)):
            log.append({"model": "m", "messages": deepcopy(messages), "tools": deepcopy(tools)})
            call = {"id": f"call_{dice.getrandbits(60):015x}", "type": "function"}
            arguments = json.dumps({"query": words(dice, 4), "limit": dice.randint(1, 50)})
            call["function"] = {"name": dice.choice(tools)["function"]["name"], "arguments": arguments}
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": words(dice, 30)})
        logs.append(log)
    return logs


def first_turns(seed: int, conversations: int = 60) -> list[Log]:
    """Nothing but first turns, some with a user's own words at the end of the instructions."""
    dice = random.Random(seed)
    shared = instructions(dice)
    logs = []
    for number in range(conversations):
        system = f"{shared}\n\nThe user is {dice.choice(NAMES)}." if number % 2 else shared
        logs += [list(turns_of(dice, [{"role": "system", "content": system}], 1))]
    return logs


CLEAN: dict[str, Callable[[int], list[Log]]] = {
    "chat": chat,
    "rag": rag,
    "agents": agents,
    "first turns": first_turns,
}


def interleaved(logs: list[Log], seed: int, named: bool = True, names: str = "c") -> list[bytes]:
    """The lines of a log in which conversations overlap; with ``named`` each says which one it is of."""
    dice = random.Random(seed)
    waiting = [(number, list(log)) for number, log in enumerate(logs)]
    lines = []
    while waiting:
        place = dice.randrange(min(len(waiting), 6))
        number, log = waiting[place]
        body = log.pop(0)
        line = {"request": body, "conversation_id": f"{names}{number}"} if named else body
        lines.append(json.dumps(line, ensure_ascii=False).encode())
        if not log:
            waiting.pop(place)
    return lines


Planter = Callable[[list[Log], random.Random], None]


def each(change: Callable[[Body, random.Random, int, int], None]) -> Planter:
    """A defect planted in every request, given its conversation's and its own number."""

    def plant(logs: list[Log], dice: random.Random) -> None:
        for number, log in enumerate(logs):
            for turn, body in enumerate(log):
                change(body, dice, number, turn)

    return plant


def system_of(body: Body) -> Body:
    """The system message of a request."""
    return next(one for one in body["messages"] if one["role"] == "system")


def in_front(write: Callable[[random.Random, int, int], str]) -> Planter:
    """A line in front of the instructions."""

    def change(body: Body, dice: random.Random, number: int, turn: int) -> None:
        one = system_of(body)
        one["content"] = f"{write(dice, number, turn)}\n{one['content']}"

    return each(change)


def _clock(number: int, turn: int) -> datetime:
    return START + timedelta(
        days=number % 7, hours=number % 11, minutes=7 * number + 3 * turn, seconds=number
    )


def _uuid(dice: random.Random) -> str:
    digits = f"{dice.getrandbits(128):032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _white_space(body: Body, dice: random.Random, number: int, _turn: int) -> None:
    one = system_of(body)
    if number % 2:
        one["content"] = one["content"].replace(", ", ",  ").replace("\n\n", "\n \n")


def _formatting(body: Body, dice: random.Random, number: int, _turn: int) -> None:
    one = system_of(body)
    if number % 3 == 1:
        one["content"] = one["content"].replace("\n", "\r\n").replace('"', "'")
    elif number % 3 == 2:
        one["content"] = one["content"].upper()


def _role_order(body: Body, dice: random.Random, number: int, _turn: int) -> None:
    if number % 2:
        messages = body["messages"]
        one = system_of(body)
        messages.remove(one)
        messages.insert(1, one)


def _json_order(body: Body, dice: random.Random, _number: int, _turn: int) -> None:
    fields = [
        (name, index) for index, name in enumerate(("region", "currency", "language", "channel", "tier"))
    ]
    dice.shuffle(fields)
    one = system_of(body)
    one["content"] = f"Settings: {json.dumps(dict(fields))}\n{one['content']}"


def _tools(body: Body, dice: random.Random, number: int, turn: int) -> None:
    if not body.get("tools"):
        fixed = random.Random(5)
        body["tools"] = [tool(fixed) for _ in range(4)]
    dice.shuffle(body["tools"])


def _trimmed(logs: list[Log], _dice: random.Random) -> None:
    for log in logs:
        for body in log:
            systems = [one for one in body["messages"] if one["role"] == "system"]
            rest = [one for one in body["messages"] if one["role"] != "system"]
            body["messages"] = systems + rest[-5:]


def _rewritten(logs: list[Log], _dice: random.Random) -> None:
    for log in logs:
        for body in log:
            for one in body["messages"][:-1]:
                if one["role"] in ("user", "assistant") and one["content"]:
                    one["content"] = " ".join(one["content"].split()[3:])


PLANTED: dict[str, Planter] = {
    "date": in_front(lambda dice, number, turn: f"Today is {_clock(number, turn):%A, %d %B %Y}."),
    "time": in_front(lambda dice, number, turn: f"Current time: {_clock(number, turn):%H:%M:%S}"),
    "id": in_front(lambda dice, number, turn: f"Request id: {_uuid(dice)}"),
    "value": in_front(lambda dice, number, turn: f"You are talking to {NAMES[number % len(NAMES)]} now."),
    "white-space": each(_white_space),
    "message-order": each(_role_order),
    "json-order": each(_json_order),
    "trimmed-history": _trimmed,
    "formatting": each(_formatting),
    "tools": each(_tools),
    "rewritten-history": _rewritten,
    "counter": in_front(lambda dice, number, turn: f"This is turn {turn + 1}."),
}
"""By the kind that the doctor should find."""


PLANTING_ORDER = (
    "rewritten-history", "trimmed-history", "white-space", "formatting", "counter", "value", "date", "time",
    "id", "json-order", "tools", "message-order",
)  # fmt: skip


def long_chat(seed: int, conversations: int = 24, length: int = 1, service: int | None = None) -> list[Log]:
    """Chats that are long enough for every defect to show, all with the instructions of one service."""
    dice = random.Random(seed)
    written_by = dice if service is None else random.Random(service)
    opening = [{"role": "system", "content": instructions(written_by, 12 * length)}]
    return [list(turns_of(dice, opening, dice.randint(4, 7), length)) for _ in range(conversations)]


def planted(
    seed: int, *kinds: str, conversations: int = 24, length: int = 1, service: int | None = None
) -> list[Log]:
    """`long_chat` with these defects."""
    dice = random.Random(seed)
    logs = long_chat(seed, conversations, length, service)
    # What shortens histories comes first, and what moves the instructions last: else one undoes the other.
    for kind in sorted(kinds, key=PLANTING_ORDER.index):
        PLANTED[kind](logs, dice)
    return logs


SERVICES: tuple[tuple[str, ...], ...] = (
    (), (), (), (), (),
    ("time",), ("id", "trimmed-history"), ("counter",), ("value", "tools"), tuple(PLANTED),
)  # fmt: skip


def write_large(path: str, num_bytes: int) -> None:
    """A log of ten services: half of them clean, the others with one, two or all defects."""
    written = seed = 0
    with open(path, "wb") as file:
        while written < num_bytes:
            service = seed % len(SERVICES)
            logs = planted(seed, *SERVICES[service], conversations=20, length=5, service=service)
            for line in interleaved(logs, seed, names=f"{seed}-"):
                written += file.write(line + b"\n")
            seed += 1


if __name__ == "__main__":  # FILE BYTES
    write_large(sys.argv[1], int(sys.argv[2]))
