"""Where a router does not answer as its engine, and why: the table of docs/conformance.md."""

from typing import NamedTuple


class Meant(NamedTuple):
    """One kind of difference."""

    reason: str
    statuses: frozenset[int]
    """What the router answers with; none where answers are compared but for this."""


MEANT = {
    "fingerprint": Meant(
        "`system_fingerprint` stands in the last event of a vLLM stream: in that with the usage, which the "
        "router asks for and does not pass on to a client that did not.",
        frozenset(),
    ),
    "Anthropic's format": Meant(
        "What vLLM's validation refuses at `/v1/messages` comes in OpenAI's format, which Anthropic's "
        "clients do not read: the router puts it into theirs, with the same message.",
        frozenset(),
    ),
    "no JSON": Meant(
        "What is no JSON object is refused by the router, which has to read it, in its own words.",
        frozenset({400}),
    ),
    "no form": Meant(
        "A form without a boundary or a name for its model is refused by the router, in its own words.",
        frozenset({400}),
    ),
    "own words": Meant(
        "A `model` that is no string and a `cache_salt` against vLLM's rules are refused by the router.",
        frozenset({400}),
    ),
    "unknown model": Meant(
        "Only the router knows what the fleet serves; code and type are those of OpenAI's API.",
        frozenset({404}),
    ),
    "internals": Meant(
        "`kv_transfer_params`, `ec_transfer_params` and `kv_cache_report_mode`, in a field of their own or "
        "among further arguments, are no client's business: they would bypass routing, or read other "
        "clients' blocks.",
        frozenset({400}),
    ),
    "too long": Meant(
        "A prompt that no replica's context holds is refused by the router, with OpenAI's code.",
        frozenset({400}),
    ),
    "breakpoints": Meant(
        "Engines do not read `cache_control`; the router splits their counts by it, and refuses what "
        "Anthropic refuses of it.",
        frozenset({200, 400}),
    ),
    "models": Meant("The list of models is the fleet's.", frozenset({200})),
    "version": Meant("The version is Warmroute's.", frozenset({200})),
    "path": Meant(
        "Paths that only operate one engine are not passed on, and others answer with what there is; nothing "
        "is redirected.",
        frozenset({404, 405}),
    ),
    "method": Meant(
        "405 in the router's own words; `HEAD` is answered where `GET` is.", frozenset({200, 404, 405})
    ),
}
