"""The conversations of the benchmark: texts for clients, and their exact tokens and block keys for engines.

Everything follows from a run's name and a conversation's number, so that the processes on both ends agree
without a word. Texts are drawn from the tokenizer's own vocabulary. They are rendered as ChatML, and each
message is tokenised alone, which is exact because special tokens stand at both of its ends.
"""

import json
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import xxhash
from tokenizers import Tokenizer

from cluster.prompts.tokenizer import tokenizer_fingerprint
from cluster.protocol.block_keys import Namespace, block_keys

MODEL = "bench"
BLOCK_SIZE = 16
"""Tokens per KV block; vLLM's default on GPUs."""
NUM_TURNS = 4
NUM_SYSTEMS = 8
NUM_QUESTIONS = 8192
NUM_ANSWERS = 256
SYSTEM_WORDS = 300
QUESTION_WORDS = 40
ANSWER_WORDS = 60
WORDS_PER_SENTENCE = 12
NOBODYS = -1
"""Number of a conversation that no engine knows: it is answered without usage, and leaves no blocks."""


class Tag(NamedTuple):
    """What a request tells its engine, in the field ``user``: whose turn it is, and how to answer."""

    run: str
    conversation: int
    turn: int
    chunks: int = 0
    """Chunks of a streamed answer; 0 is a JSON answer."""
    interval_us: int = 0
    """Microseconds between chunks; 0 is as fast as they are taken."""
    padding: int = 0
    """Further bytes in each chunk."""

    def __str__(self) -> str:
        return "|".join(map(str, self))

    @classmethod
    def read(cls, text: str) -> "Tag":
        """The reverse of ``str``. Raises `ValueError`."""
        run, *numbers = text.split("|")
        conversation, turn, chunks, interval_us, padding = map(int, numbers)
        return cls(run, conversation, turn, chunks, interval_us, padding)


class Prompt(NamedTuple):
    """One turn as an engine sees it."""

    prompt_tokens: int
    keys: list[int]
    """Keys of all full blocks that the engine holds after its answer."""
    answer: str


class Conversations:
    """All conversations with one tokenizer. Memory is bounded by the number of different messages."""

    def __init__(self, model_directory: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(model_directory / "tokenizer.json"))
        self._words = sorted(
            word[1:]
            for word in self._tokenizer.get_vocab()
            if len(word) > 2 and word[0] == "Ġ" and word[1:].isascii() and word[1:].islower()
        )
        if len(self._words) < WORDS_PER_SENTENCE:
            raise SystemExit(f"the tokenizer in {model_directory} is not a byte-level BPE")
        self.fingerprint = tokenizer_fingerprint(model_directory)
        self._root = Namespace(self.fingerprint, BLOCK_SIZE).root()
        self._opening = self._encode("<|im_start|>assistant\n")
        self._message = cache(self._make_message)
        self._tokens = cache(self._make_tokens)
        self._history = lru_cache(maxsize=4096)(self._make_history)

    def text(self, num_words: int, name: str) -> str:
        """That many words; the same for the same name, other ones for another."""
        seed = xxhash.xxh3_64_intdigest(name.encode())
        words = []
        for number in range(num_words):
            seed = (seed * 6364136223846793005 + 1442695040888963407) % 2**64
            word = self._words[(seed >> 33) % len(self._words)]
            words.append(word + "." if number % WORDS_PER_SENTENCE == WORDS_PER_SENTENCE - 1 else word)
        return " ".join(words)

    def body(self, tag: Tag) -> bytes:
        """The request for one turn, with the whole conversation before it."""
        messages = b",".join(
            self._message(*name)[1] for name in _messages(tag.run, tag.conversation, tag.turn)
        )
        return request(tag, b"[" + messages + b"]")

    def prompt(self, tag: Tag) -> Prompt:
        """What the engine needs to know of a turn."""
        tokens = self._history(tag.run, tag.conversation, tag.turn)
        answer = _answer(tag.run, tag.conversation, tag.turn)
        # The last token of an answer, the end of the message, is sampled but never computed.
        after = tokens + self._tokens(*answer)[:-2]
        return Prompt(
            len(tokens) + len(self._opening),
            block_keys(self._root, after, BLOCK_SIZE),
            self._message(*answer)[0],
        )

    def _make_history(self, run: str, conversation: int, turn: int) -> list[int]:
        return [token for name in _messages(run, conversation, turn) for token in self._tokens(*name)]

    def _make_message(self, role: str, number: int) -> tuple[str, bytes]:
        words = {"system": SYSTEM_WORDS, "user": QUESTION_WORDS, "assistant": ANSWER_WORDS}[role]
        text = self.text(words, f"{role} {number}")
        return text, json.dumps({"role": role, "content": text}).encode()

    def _make_tokens(self, role: str, number: int) -> list[int]:
        return self._encode(f"<|im_start|>{role}\n{self._message(role, number)[0]}<|im_end|>\n")

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids


def request(tag: Tag, messages: bytes) -> bytes:
    """A request body with these messages, which are JSON."""
    stream = b'"stream":true,' if tag.chunks else b""
    head = b'{"user":"%b","model":"%b","max_tokens":%d,%b"messages":'
    return head % (str(tag).encode(), MODEL.encode(), max(1, tag.chunks), stream) + messages + b"}"


def _draw(run: str, conversation: int, what: str, count: int) -> int:
    return xxhash.xxh3_64_intdigest(f"{run} {conversation} {what}".encode()) % count


def _answer(run: str, conversation: int, turn: int) -> tuple[str, int]:
    return "assistant", _draw(run, conversation, f"answer {turn}", NUM_ANSWERS)


def _messages(run: str, conversation: int, turn: int) -> list[tuple[str, int]]:
    """Role and number of all messages up to a turn's question."""
    names = [("system", conversation % NUM_SYSTEMS)]
    for number in range(turn + 1):
        if number:
            names.append(_answer(run, conversation, number - 1))
        names.append(("user", _draw(run, conversation, f"question {number}", NUM_QUESTIONS)))
    return names
