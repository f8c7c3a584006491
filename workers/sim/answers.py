"""What a simulated engine answers: plain words that a tokenizer turns back into the tokens they came from.

The next turn of a conversation repeats the answer as text. Its cached blocks are hit only if that text
becomes the tokens that were generated, so answers are made of common words that are one token each.
"""

from collections.abc import Iterator, Sequence

import xxhash

from cluster.prompts.tokenizer import PromptTokenizer

WORDS = (
    "the of and to in is that for it was on are with they be at one have this from or had by but some what "
    "there we can out other were all your when up use word how said an each she which do their time if will "
    "way about many then them would write like so these her long make thing see him two has look more day "
    "could go come did number sound no most people my over know water than call first who may down side been "
    "now find"
)

ANCHOR = "a"
MIN_SINGLE_TOKEN_WORDS = 8
SEED_TOKENS = 512
"""An answer depends on its prompt's length and last tokens; all of them would cost time per request."""

_MULTIPLIER, _INCREMENT, _MASK = 6364136223846793005, 1442695040888963407, (1 << 64) - 1

Piece = tuple[int, str]
"""A token and what it adds to the text."""


class AnswerBook:
    """The answers of one model. They follow from the prompt and have no end: the token limit ends them."""

    def __init__(self, tokenizer: PromptTokenizer) -> None:
        self._openings = _stable_words([_pieces(tokenizer, "", word) for word in WORDS.split()])
        self._followers = _stable_words([_pieces(tokenizer, ANCHOR, f" {word}") for word in WORDS.split()])

    def answer(self, prompt: Sequence[int], variant: int) -> Iterator[Piece]:
        """The answer to a prompt, piece by piece; variants of one prompt differ."""
        seed = repr((variant, len(prompt), prompt[-SEED_TOKENS:]))
        state = xxhash.xxh3_64_intdigest(seed.encode())
        yield from self._openings[state % len(self._openings)]
        while True:
            state = (state * _MULTIPLIER + _INCREMENT) & _MASK
            yield from self._followers[(state >> 33) % len(self._followers)]


def _pieces(tokenizer: PromptTokenizer, before: str, text: str) -> list[Piece]:
    """The tokens of a text that stands behind another one, each with what it adds."""
    start = len(tokenizer.completion(before, add_special_tokens=False).token_ids)
    tokens = tokenizer.completion(before + text, add_special_tokens=False).token_ids
    texts = [tokenizer.decode(tokens[:end]) for end in range(start, len(tokens) + 1)]
    return [
        (token, longer.removeprefix(shorter))
        for token, shorter, longer in zip(tokens[start:], texts[:-1], texts[1:], strict=True)
    ]


def _stable_words(words: list[list[Piece]]) -> list[list[Piece]]:
    """The words of one token; all words when the vocabulary has too few of these."""
    single = [word for word in words if len(word) == 1]
    return single if len(single) >= MIN_SINGLE_TOKEN_WORDS else words
