"""Bodies that an ordinary client can send and that are hard on somebody: each made for a size in bytes."""

import json
import random
from collections.abc import Callable, Collection, Iterator

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
SIZES = (1024, 64 * 1024, 1024 * 1024, 15 * 1024 * 1024)
LIMIT = 16 * 1024 * 1024
"""What a router takes."""

Make = Callable[[int], bytes]


def chat_of(text: str) -> bytes:
    """A chat of one message."""
    return chat(messages=[{"role": "user", "content": text}])


def chat(**fields: object) -> bytes:
    """A chat with these fields."""
    return encode({"messages": [{"role": "user", "content": "Hi"}], **fields})


def completion(**fields: object) -> bytes:
    """A text completion with these fields."""
    return encode({"prompt": "Hi", **fields})


def encode(fields: dict[str, object]) -> bytes:
    """A body, with text as it is where JSON allows that."""
    return json.dumps({"model": "tiny", "max_tokens": 1, **fields}, ensure_ascii=False).encode()


def repeated(piece: str, size: int) -> str:
    """A text of that size."""
    return piece * (size // len(piece.encode()))


def drawn(alphabet: str, size: int) -> str:
    """Random characters."""
    return "".join(random.Random(1).choices(alphabet, k=size))


BEGIN = '{"model":"tiny","max_tokens":1,'
MESSAGES = '"messages":[{"role":"user","content":"a"}'
TOOL_MESSAGE = '{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}'


def filled(front: str, piece: str, back: str) -> Make:
    """A body with as many pieces as fit."""
    front = BEGIN + front
    return lambda size: (front + piece * ((size - len(front)) // len(piece)) + back).encode()


def with_field(field: str, piece: str, first: str = "[0", back: str = "]") -> Make:
    """A chat with a field of very many values."""
    return filled(f'{MESSAGES}],"{field}":{first}', piece, back + "}")


def nested(size: int) -> bytes:
    """As deep as a parser may allow."""
    depth = min(size // 2, 990)
    return f'{BEGIN}{MESSAGES}],"a":{"[" * depth}{"]" * depth}}}'.encode()


def with_arguments(size: int) -> bytes:
    """A tool call of very many arguments."""
    function = {"name": "f", "arguments": f"[{'0,' * (size // 2)}0]"}
    call = {"role": "assistant", "tool_calls": [{"function": function}]}
    return chat(messages=[{"role": "user", "content": "a"}, call])


def with_roles(size: int) -> bytes:
    """Messages of as many roles."""
    return chat(messages=[{"role": f"r{number}", "content": "a"} for number in range(size // 32)])


TEXTS: dict[str, Callable[[int], str]] = {
    "one letter": lambda size: repeated("x", size),
    "random letters": lambda size: drawn("abcdefghijklmnopqrstuvwxyz", size),
    "DNA": lambda size: drawn("ACGT", size),
    "digits": lambda size: repeated("7", size),
    "random digits": lambda size: drawn("0123456789", size),
    "spaces": lambda size: "a" + repeated(" ", size - 1),
    "line ends": lambda size: repeated("\n", size),
    "dashes": lambda size: repeated("-", size),
    "base64": lambda size: drawn("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", size),
    "accents": lambda size: repeated("é", size),
    "combining": lambda size: repeated("e\u0301", size),
    "many accents on one letter": lambda size: "e" + repeated("\u0301", size - 1),
    "Chinese": lambda size: repeated("東京", size),
    "emoji": lambda size: repeated("🚀", size),
    "numbers": lambda size: repeated("1234,5678\n", size),
    "ordinary words": lambda size: repeated("lorem ipsum dolor ", size),
    "random words": lambda size: drawn("abcdefgh ", size),
    "source code": lambda size: repeated("    if (a[\"b\"] != 'c') { return x[1] + 2; }\n", size),
    "special tokens": lambda size: repeated("<|im_start|>", size),
    "null characters": lambda size: repeated("\0", size),
    "contractions": lambda size: repeated("'s", size),
}

CHATS: dict[str, Make] = {
    "messages": filled(MESSAGES, ',{"role":"user","content":"a"}', "]}"),
    "messages of tools": filled(MESSAGES, "," + TOOL_MESSAGE, "]}"),
    "arguments": with_arguments,
    "parts": filled('"messages":[{"role":"user","content":["a"', ',"a"', "]}]}"),
    "text parts": filled('"messages":[{"role":"user","content":["a"', ',{"type":"text","text":"a"}', "]}]}"),
    "tools": with_field("tools", ',{"type":"function","function":{"name":"f"}}', "[{}"),
    "one tool": with_field("tools", ",0", '[{"function":{"name":"f","parameters":[0', "]}}]"),
    "template arguments": with_field("chat_template_kwargs", ",0", '{"a":[0', "]}"),
    "documents": with_field("documents", ',{"title":"a"}', "[{}"),
    "numbers": with_field("a", ",0"),
    "objects": with_field("a", ",{}"),
    "arrays": with_field("a", ",[]"),
    "numbers, streamed": with_field("a", ",0", 'null,"stream":true,"stream_options":{},"b":[0'),
    "keys": lambda size: chat(logit_bias={f"{n:x}": 0 for n in range(size // 12)}),
    "escapes": filled('"messages":[{"role":"user","content":"', "\\n", '"}]}'),
    "unicode escapes": filled('"messages":[{"role":"user","content":"', "\\u00e9", '"}]}'),
    "white space": lambda size: b" " * size + chat(),
    "nested arrays": lambda size: b'{"a":' + b"[" * size,
    "nested, closed": nested,
    "nested objects": lambda size: b'{"a":' * (size // 5),
    "no JSON": lambda size: b"x" * size,
    "no UTF-8": lambda size: b'{"model":"' + b"\xff" * size + b'"}',
    "model": lambda size: chat(model="x" * size),
    "cache_salt": lambda size: chat(cache_salt="x" * size),
    "role": lambda size: chat(messages=[{"role": "x" * size, "content": "a"}]),
    "roles": with_roles,
    "user": lambda size: chat(user="x" * size),
    "long number": with_field("a", "7", "0.", ""),
}

COMPLETIONS: dict[str, Make] = {
    "prompt: one letter": lambda size: completion(prompt=repeated("x", size)),
    "prompt: token ids": filled('"prompt":[1', ",7", "]}"),
    "prompt: many texts": filled('"prompt":["a"', ',"b"', "]}"),
    "prompt: many token lists": filled('"prompt":[[1]', ",[2]", "]}"),
    "messages in a completion": lambda size: completion(messages=[{"role": "user", "content": "x" * size}]),
}

KINDS: dict[str, tuple[str, Make]] = {
    **{f"text: {name}": (CHAT, lambda size, text=text: chat_of(text(size))) for name, text in TEXTS.items()},
    **{name: (CHAT, make) for name, make in CHATS.items()},
    **{name: (COMPLETION, make) for name, make in COMPLETIONS.items()},
}


def every(names: Collection[str], sizes: Collection[int]) -> Iterator[tuple[str, str, int, bytes]]:
    """Name, path, wanted size and body of each of these kinds."""
    for name in names:
        path, make = KINDS[name]
        for size in sizes:
            body = make(size)
            if len(body) > LIMIT:  # escapes have made it longer
                body = make(size * SIZES[-1] // len(body))
            yield name, path, size, body
