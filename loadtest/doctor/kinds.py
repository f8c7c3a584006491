"""The kinds of defect that the doctor looks for, and what to do about each."""

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """Why prompts that could share their beginning do not."""

    DATE = "date"
    TIME = "time"
    ID = "id"
    VALUE = "value"
    SPACE = "white-space"
    ROLE = "message-order"
    JSON = "json-order"
    TRIMMED = "trimmed-history"
    FORMAT = "formatting"
    TOOLS = "tools"
    REWRITTEN = "rewritten-history"
    COUNTER = "counter"
    DOCUMENTS = "document-order"


Kinds = frozenset[Kind]
NONE: Kinds = frozenset()
ALL: Kinds = frozenset(Kind)


@dataclass(frozen=True, slots=True)
class Remedy:
    """What a defect is called, and how it is mended."""

    title: str
    advice: str
    simulated: str
    """What the doctor changed in the prompts to find out what the remedy wins."""


REMEDIES = {
    Kind.DATE: Remedy(
        "A date near the start",
        "Move the date behind all shared text: into the last user message, or a tool the model can call.",
        "every such date replaced with the one of the first prompt",
    ),
    Kind.TIME: Remedy(
        "A time of day or timestamp",
        "Leave the time out, or put it into the last user message. If only the day matters, write the day.",
        "every such time replaced with the one of the first prompt",
    ),
    Kind.ID: Remedy(
        "A unique id",
        "Send request and session ids as HTTP headers or metadata, not in the prompt.",
        "every such id replaced with the one of the first prompt",
    ),
    Kind.VALUE: Remedy(
        "A value of its own before shared text",
        "Write what differs from user to user, or at random, behind all that is the same for everybody, "
        "best as the last paragraph of the system message.",
        "the words that differ replaced with those of the first prompt",
    ),
    Kind.SPACE: Remedy(
        "Different white space",
        "Build the prompt in one place, and strip and join its parts there the same way each time.",
        "white space taken from the first prompt with these words",
    ),
    Kind.ROLE: Remedy(
        "Messages in different order",
        "Put the system messages first, the shared one in front, in the same order in every request.",
        "system messages moved to the front, in the order in which they were first seen",
    ),
    Kind.JSON: Remedy(
        "JSON fields in changing order",
        "Serialise with sorted keys, for example json.dumps(..., sort_keys=True), tools included.",
        "fields put in the order of the first JSON with the same fields",
    ),
    Kind.TRIMMED: Remedy(
        "Histories trimmed from the front",
        "Keep the history until the window is nearly full, then cut it to half at once, not turn by turn.",
        "dropped turns kept until they are as long as what is left of the prompt, then dropped at once",
    ),
    Kind.FORMAT: Remedy(
        "One prompt, written in different ways",
        "Share one template between the services: same case, quotes, punctuation and line ends.",
        "case, punctuation and line ends taken from the first prompt with these words",
    ),
    Kind.TOOLS: Remedy(
        "Tools that change or move",
        "Send one list of tools, sorted by name, in all turns. To forbid some in a turn use tool_choice.",
        "the conversation's first list, in the order in which that set of tools was first seen",
    ),
    Kind.REWRITTEN: Remedy(
        "History rewritten afterwards",
        "Append to the history and do not edit it: no summaries turn by turn, and what a message held when "
        "it was sent (documents, reasoning) stays in it.",
        "earlier messages left as they were when they were first sent",
    ),
    Kind.COUNTER: Remedy(
        "A number that counts",
        "Leave counters such as the turn or the tokens left out, or put them into the last user message.",
        "every such number replaced with the one of the first prompt or of the turn before",
    ),
    Kind.DOCUMENTS: Remedy(
        "Documents in changing order",
        "Sort retrieved documents by a fixed key such as their id, not by score.",
        "the same paragraphs put in the order in which they were first seen",
    ),
}
