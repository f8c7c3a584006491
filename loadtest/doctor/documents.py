"""Paragraphs that come in another order than before."""

import xxhash

from loadtest.doctor.bounded import Bounded

MIN_PARAGRAPH = 60
"""Characters."""
MAX_SETS = 50_000
SEPARATOR = "\n\n"


class Documents:
    """Remembers sets of long paragraphs in the order in which each set was first seen. Bounded."""

    def __init__(self) -> None:
        self._orders: Bounded[int, tuple[int, ...]] = Bounded(MAX_SETS)
        self._met: Bounded[int, bool] = Bounded(MAX_SETS)

    def in_first_order(self, text: str) -> str:
        """The text with the paragraphs that other texts had too where they stood when the same ones were
        first together.
        """
        if SEPARATOR not in text:
            return text
        parts = text.split(SEPARATOR)
        places = [place for place, part in enumerate(parts) if len(part) >= MIN_PARAGRAPH]
        if len(places) < 2:
            return text
        digest_of = {
            place: xxhash.xxh3_64_intdigest(parts[place].encode("utf-8", "surrogatepass")) for place in places
        }
        places = [place for place in places if self._met.get(digest_of[place])]
        for digest in digest_of.values():
            self._met.put(digest, True)
        digests = tuple(digest_of[place] for place in places)
        if len(digests) < 2:
            return text
        group = xxhash.xxh3_64_intdigest(repr(sorted(digests)).encode())
        order = self._orders.first(group, digests)
        if order == digests:
            return text
        by_digest = {digest: parts[place] for digest, place in zip(digests, places, strict=True)}
        if len(by_digest) < len(digests):
            return text  # the same paragraph twice: nothing to sort by
        for place, digest in zip(places, order, strict=True):
            parts[place] = by_digest[digest]
        return SEPARATOR.join(parts)
