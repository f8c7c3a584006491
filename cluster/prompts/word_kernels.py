"""The compiled part of `cluster.prompts.word_encoder`: cuts texts into words, and finds the tokens of known
ones.

Words are kept in a hash table: an entry is where a word's bytes and its tokens lie, and how many there are of
each. The same for tokens and bytes: what comes is appended, nothing is taken out.
"""

from typing import Any

import numpy as np

from cluster.index.index_sets import Number, Table
from policies.compiled import helper, kernel

IGNORE_CASE, ANY_PREFIX, MAX_DIGITS, NEWLINES = range(4)
"""Places in the rules of `cluster.prompts.text_splits.WordRules`."""
TEXT, TEXT_END, TOKENS, TOKENS_END = range(4)
"""Columns of an entry. One whose word ends at 0 is free."""
NUM_WORDS, TEXT_USED, TOKENS_USED = range(3)
"""Counters."""
MAX_PROBES = 64
"""A word whose place and so many behind it are taken is not remembered."""
MAX_WORD_BYTES = 128
"""Longer words are rare, and not remembered."""
OTHER, LETTER, DIGIT, SPACE = range(4)

TEXTS = "Array(uint8, 1, 'C', readonly=True)"
TOKEN_IDS = "Array(uint32, 1, 'C', readonly=True)"
WORDS = "uint64, int32[:, ::1], uint8[::1], uint32[::1], int64[::1]"


@helper
def kind_of(byte: Any) -> Any:
    """What an ASCII character is to the regular expressions that cut words."""
    if 97 <= byte <= 122 or 65 <= byte <= 90:
        return LETTER
    if 48 <= byte <= 57:
        return DIGIT
    return SPACE if byte == 32 or 9 <= byte <= 13 else OTHER


@helper
def contraction_end(text: Table, start: Any, end: Any, ignore_case: Any) -> Any:
    """The end of 's, 't, 're, 've, 'm, 'll or 'd after the apostrophe at ``start``; 0 if it is none."""
    if start + 1 >= end:
        return Number(0)
    fold = 32 if ignore_case else 0
    first = text[start + 1] | fold
    if first == 115 or first == 116 or first == 109 or first == 100:  # s, t, m, d
        return start + 2
    if start + 2 < end:
        second = text[start + 2] | fold
        if (second == 101 and (first == 114 or first == 118)) or (
            first == 108 and second == 108
        ):  # re, ve, ll
            return start + 3
    return Number(0)


@helper
def run_end(text: Table, start: Any, end: Any, kind: Any) -> Any:
    """Where the characters of one kind end that begin at ``start``."""
    while start < end and kind_of(text[start]) == kind:
        start += 1
    return start


@helper
def word_end(text: Table, start: Any, end: Any, rules: Table) -> Any:
    """The end of the word that begins at ``start`` in ASCII text without special tokens."""
    byte = text[start]
    kind, following = kind_of(byte), kind_of(text[start + 1]) if start + 1 < end else SPACE
    if byte == 39:
        contraction = contraction_end(text, start, end, rules[IGNORE_CASE])
        if contraction > 0:
            return contraction
    if kind == LETTER:
        return run_end(text, start, end, LETTER)
    prefix = byte == 32 or (rules[ANY_PREFIX] > 0 and kind != DIGIT and byte != 10 and byte != 13)
    if prefix and following == LETTER:
        return run_end(text, start + 1, end, LETTER)
    if kind == DIGIT:
        return run_end(
            text, start, min(end, start + rules[MAX_DIGITS]) if rules[MAX_DIGITS] > 0 else end, DIGIT
        )
    if byte == 32 and following == DIGIT and rules[MAX_DIGITS] == 0:
        return run_end(text, start + 1, end, DIGIT)
    if kind == OTHER or (byte == 32 and following == OTHER):
        place = run_end(text, start + 1, end, OTHER)
        while rules[NEWLINES] > 0 and place < end and (text[place] == 10 or text[place] == 13):
            place += 1
        return place
    spaces_end = run_end(text, start, end, SPACE)
    if rules[NEWLINES] > 0:
        for place in range(spaces_end - 1, start - 1, -1):
            if text[place] == 10 or text[place] == 13:
                return place + 1
    return spaces_end if spaces_end == end or spaces_end == start + 1 else spaces_end - 1


@helper
def special_end(text: Table, start: Any, end: Any, specials: Table, ends: Table) -> Any:
    """The end of the first of these special tokens that stands at ``start``; 0 if none does."""
    begin = Number(0)
    for special in ends:
        length = special - begin
        if start + length <= end:
            place = Number(0)
            while place < length and text[start + place] == specials[begin + place]:
                place += 1
            if place == length:
                return start + length
        begin = special
    return Number(0)


@kernel(f"int64({TEXTS}, boolean, int64[::1], boolean[::1], uint8[::1], int64[::1], int32[::1])")
def cut(
    text: Table, is_ascii: bool, rules: Table, first_bytes: Table, specials: Table, special_ends: Table,
    ends: Table,
) -> int:  # fmt: skip
    """Write the ends of a text's words into ``ends``, which has room for one per byte; returns their number.

    Special tokens are words. What is not ASCII stays together up to the next end of a word where a letter
    and a space before a letter meet.
    """
    count, start, size = Number(0), Number(0), len(text)
    while start < size:
        end, plain = Number(size), True
        if not is_ascii:
            for place in range(start, size):
                plain = plain and text[place] < 128
                if (
                    kind_of(text[place]) == LETTER
                    and place + 2 < size
                    and text[place + 1] == 32
                    and kind_of(text[place + 2]) == LETTER
                ):
                    end = Number(place + 1)
                    break
        if not plain:
            start = end
            ends[count] = end
            count += 1
        while start < end:
            special, after = end, Number(0)
            for place in range(start, end):
                if first_bytes[text[place]]:
                    after = special_end(text, Number(place), end, specials, special_ends)
                    if after > 0:
                        special = Number(place)
                        break
            while start < special:
                start = word_end(text, start, special, rules)
                ends[count] = start
                count += 1
            if after > 0:
                start = after
                ends[count] = start
                count += 1
    return int(count)


@helper
def home_of(text: Table, start: Any, end: Any, seed: Any, entries: Table) -> Any:
    """The entry that a word would have if the table were empty."""
    value = np.uint64(seed)
    for place in range(start, end):
        value = (value ^ np.uint64(text[place])) * np.uint64(0x9DDFEA08EB382D69)
    value ^= value >> np.uint64(29)
    return Number((value * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & (len(entries) - 1)


@helper
def find(text: Table, start: Any, end: Any, at: Any, entries: Table, texts: Table) -> Any:
    """The entry of a word, looked for from its home on; of an unknown one, -1 less the entry that it could
    have, or less their number."""
    length = end - start
    for _ in range(MAX_PROBES):
        begin = entries[at, TEXT]
        if not entries[at, TEXT_END]:
            return -1 - at
        if entries[at, TEXT_END] - begin == length:
            place = Number(0)
            while place < length and texts[begin + place] == text[start + place]:
                place += 1
            if place == length:
                return at
        at += 1
        if at == len(entries):
            at = Number(0)
    return -1 - len(entries)


@kernel(f"int64({TEXTS}, int32[::1], int64[::1], {WORDS}, uint32[::1], int32[:, ::1])")
def look_up(
    text: Table, ends: Table, stops: Table, seed: int, entries: Table, texts: Table, tokens: Table,
    counters: Table, found: Table, unknown: Table,
) -> int:  # fmt: skip
    """Write the tokens of a text's known words into ``found``, and of the unknown ones begin, end and how
    many tokens stand before them into ``unknown``. Replaces each of the ``stops``, which are ends of words,
    by the number of tokens before it. Returns the number of unknown words; -1 if a stop is no end of a word.
    """
    # Memory answers for many words at the same time: first for their entries, then for what these point to.
    num_words = len(ends)
    homes, touched = np.empty(num_words, np.int32), np.empty(num_words, np.int32)
    start = Number(0)
    for number in range(num_words):
        end = Number(ends[number])
        homes[number] = home_of(text, start, min(end, start + MAX_WORD_BYTES), seed, entries)
        touched[number] = entries[homes[number], TEXT]
        start = end
    for number in range(num_words):
        touched[number] = texts[touched[number]] + tokens[entries[homes[number], TOKENS]]
    start, count, missing, stop = Number(0), Number(0), Number(0), Number(0)
    for number in range(num_words):
        end, at = Number(ends[number]), Number(-1)
        if end - start <= MAX_WORD_BYTES:
            at = find(text, start, end, Number(homes[number]), entries, texts)
        if at >= 0:
            for place in range(entries[at, TOKENS], entries[at, TOKENS_END]):
                found[count] = tokens[place]
                count += 1
        else:
            unknown[missing, 0], unknown[missing, 1], unknown[missing, 2] = start, end, count
            missing += 1
        start = end
        if stop < len(stops) and end == stops[stop]:
            stops[stop] = count
            stop += 1
    return int(missing) if stop == len(stops) else -1


@kernel(f"int64({TEXTS}, int32[::1], {TOKEN_IDS}, int64[::1], {WORDS})")
def remember(
    text: Table, ends: Table, ids: Table, id_ends: Table, seed: int, entries: Table, texts: Table,
    tokens: Table, counters: Table,
) -> int:  # fmt: skip
    """Add words, given the ends of each one's bytes and of its tokens. Returns how many are done: fewer if
    the table is full.
    """
    start, id_start = Number(0), Number(0)
    for number in range(len(ends)):
        end, id_end = Number(ends[number]), Number(id_ends[number])
        at = Number(0)
        if end - start <= MAX_WORD_BYTES:
            at = find(text, start, end, home_of(text, start, end, seed, entries), entries, texts)
        if at < 0 and at >= -len(entries):
            text_end = counters[TEXT_USED] + end - start
            tokens_end = counters[TOKENS_USED] + id_end - id_start
            if 2 * counters[NUM_WORDS] >= len(entries) or text_end > len(texts) or tokens_end > len(tokens):
                return number
            entry = entries[-1 - at]
            entry[TEXT], entry[TEXT_END] = counters[TEXT_USED], text_end
            entry[TOKENS], entry[TOKENS_END] = counters[TOKENS_USED], tokens_end
            texts[counters[TEXT_USED] : text_end] = text[start:end]
            tokens[counters[TOKENS_USED] : tokens_end] = ids[id_start:id_end]
            counters[TEXT_USED], counters[TOKENS_USED] = text_end, tokens_end
            counters[NUM_WORDS] += 1
        start, id_start = end, id_end
    return len(ends)
