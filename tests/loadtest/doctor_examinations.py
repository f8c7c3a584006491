"""Examines generated logs with a tokenizer that costs nothing."""

import json
import re
from pathlib import Path

import xxhash

from cluster.index.block_table import as_keys
from cluster.prompts.prompt_keys import KeyedPrompt
from cluster.protocol.block_keys import block_keys
from loadtest.doctor.diagnosis import Diagnosis
from loadtest.doctor.examine import Question, examine
from loadtest.doctor.log_requests import LoggedRequest

BLOCK_SIZE = 16
WORD = re.compile(r"\w+|\s+|[^\w\s]")


class WordPrompts:
    """A token is a word, a stretch of white space or a sign."""

    block_size = BLOCK_SIZE
    adds_tools = False

    def keyed(self, request: LoggedRequest) -> KeyedPrompt:
        """Tokens and keys of tools and messages, one after the other."""
        parts = [json.dumps(request.tools)] if request.tools else []
        parts += [f"<{one.role}>\n{one.text}{one.extra}" for one in request.messages]
        words = WORD.findall("\n".join(parts))
        tokens = [xxhash.xxh32_intdigest(word.encode("utf-8", "surrogatepass")) for word in words]
        return KeyedPrompt(len(tokens), as_keys(block_keys(request.salt.encode(), tokens, BLOCK_SIZE)))


def diagnose(lines: list[bytes], folder: Path, name: str = "log.jsonl", **options: object) -> Diagnosis:
    """The diagnosis of a log with these lines."""
    path = folder / name
    path.write_bytes(b"\n".join(lines) + b"\n")
    return examine(Question(str(path), folder, **options), prompts=WordPrompts())


def kinds_in(diagnosis: Diagnosis) -> set[str]:
    """Names of the defects that were found."""
    return {finding.kind.value for finding in diagnosis.findings}
