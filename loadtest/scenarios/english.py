"""English text of a wanted number of tokens, without a tokenizer.

Texts are sentences of common words. Such a word is one token in the vocabularies of today's models, and so
is a mark: words and marks are counted (SmolLM2's tokenizer finds exactly as many tokens). The first sentence
of a text is drawn word by word, so that texts differ from the start. All others come from a fixed bank, which
makes a text cheap: 0.05 ms for 3,000 tokens.
"""

from functools import cache
from random import Random
from typing import Literal

Voice = Literal["statement", "question"]
"""What the first sentence of a text is."""


def _words(text: str) -> list[str]:
    return text.split()


DETERMINERS = _words("the this that our your their each another one every")
ADJECTIVES = _words(
    "new old large small early late clear open public private local main final common simple full "
    "recent current short long free good strong easy special single second third important possible "
    "general major human social natural real right"
)
NOUNS = _words(
    "order account report customer price system market company team problem question answer service product "
    "member office school family street city country book letter number list table record case study result "
    "change plan project group model machine process program network water light paper point part form state "
    "government history health business research development information policy control support value rate "
    "cost time day week month year"
)
VERBS = _words(
    "shows needs follows changes covers includes supports meets gives takes keeps finds uses moves holds "
    "makes leaves reaches"
)
BASE_VERBS = _words(
    "show need follow change cover include support meet give take keep find use move hold make leave reach"
)
PREPOSITIONS = _words("in on for with from under after before about through over between against without")
QUESTION_WORDS = _words("How Why When Where")
BANK_SIZE = 4096
BANK_SEED = 7


def english(tokens: int, source: Random, voice: Voice = "statement") -> str:
    """A text of so many words and marks, at least 1."""
    words, mark = _question(source) if voice == "question" else _statement(source)
    sentences = []
    left = tokens
    if left > len(words) + 1:
        sentences.append(" ".join(words) + mark)
        left -= len(words) + 1
        bank, shortest, longest = _bank()
        for sentence, count in source.choices(bank, k=left // shortest):
            if left <= longest:
                break
            sentences.append(sentence)
            left -= count
        while left > 0:
            words, mark = _statement(source)
            if left <= len(words) + 1:
                break
            sentences.append(" ".join(words) + mark)
            left -= len(words) + 1
    if left == 1:
        sentences.append(words[0])
    elif left:
        sentences.append(" ".join(words[: left - 1]) + mark)
    return " ".join(sentences)


@cache
def _bank() -> tuple[list[tuple[str, int]], int, int]:
    """Sentences with their tokens, and the tokens of the shortest and the longest."""
    source = Random(BANK_SEED)
    drawn = [_statement(source) for _ in range(BANK_SIZE)]
    bank = [(" ".join(words) + mark, len(words) + 1) for words, mark in drawn]
    counts = [count for _, count in bank]
    return bank, min(counts), max(counts)


def _statement(source: Random) -> tuple[list[str], str]:
    words = [*_subject(source), source.choice(VERBS), *_object(source)]
    words[0] = words[0].capitalize()
    return words, "."


def _question(source: Random) -> tuple[list[str], str]:
    asking = [source.choice(QUESTION_WORDS), "does"]
    return [*asking, *_subject(source), source.choice(BASE_VERBS), *_object(source)], "?"


def _subject(source: Random) -> list[str]:
    return [source.choice(DETERMINERS), source.choice(ADJECTIVES), source.choice(NOUNS)]


def _object(source: Random) -> list[str]:
    words = [source.choice(DETERMINERS), source.choice(NOUNS)]
    words += [source.choice(PREPOSITIONS), source.choice(DETERMINERS)]
    if source.random() < 0.5:
        words.append(source.choice(ADJECTIVES))
    return [*words, source.choice(NOUNS)]
