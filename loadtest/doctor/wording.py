"""Sentences and numbers of the reports."""

from collections.abc import Sequence

from loadtest.doctor.diagnosis import Diagnosis, Need, counted
from loadtest.doctor.findings import Finding
from loadtest.doctor.kinds import REMEDIES

WON = 0.6
"""The share of all that can be won that is "most of it"."""
NUMBERS = ("no change", "one change", "two changes", "three changes", "four changes", "five changes")
SMALL = 0.0005
"""The share of all tokens below which a gain is hardly worth a sentence."""


def percent(share: float) -> str:
    """A share as a percentage, with as many digits as it takes to see it."""
    return f"{100 * share:.1f}%" if abs(share) < 0.1 else f"{100 * share:.0f}%"


def points(tokens: int, diagnosis: Diagnosis) -> str:
    """Tokens as percentage points of hit rate."""
    value = 100 * tokens / max(diagnosis.facts.prompt_tokens, 1)
    return "under 0.05" if 0 <= value < 0.05 else f"{value:.1f}"


def size(num_bytes: float) -> str:
    """Bytes in a unit that fits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if num_bytes >= 10 or unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:,.1f} TiB"


def verdict(diagnosis: Diagnosis) -> str:
    """The whole diagnosis in two sentences."""
    rates, found = diagnosis.hit_rates, diagnosis.findings
    if not found:
        return (
            f"Nothing breaks the prefixes of this log: {percent(rates.now)} of its prompt tokens can come "
            "from cache as it is."
        )
    if rates.mended - rates.now < SMALL:
        return (
            f"{percent(rates.now)} of the prompt tokens can come from cache. Mending what is below wins next "
            "to nothing in an endless cache, but these defects cost memory and a cold start on every replica."
        )
    reach = f"You could reach {percent(rates.mended)} instead of {percent(rates.now)}"
    return f"{reach}; {_how(diagnosis, found)}."


def _how(diagnosis: Diagnosis, found: Sequence[Finding]) -> str:
    gain = (diagnosis.hit_rates.mended - diagnosis.hit_rates.now) * diagnosis.facts.prompt_tokens
    if len(found) == 1:
        return "one change wins it"
    alone = 0
    for number, finding in enumerate(sorted(found, key=lambda one: -one.tokens_alone)[:5], start=1):
        alone += finding.tokens_alone
        if alone >= WON * gain:
            return f"{NUMBERS[number]} {'wins' if number == 1 else 'win'} most of it"
    return (
        f"the {len(found)} changes below pay together: as long as one of them is missing, it hides the others"
    )


def where(finding: Finding) -> str:
    """Where a defect mostly is."""
    if finding.role == "tools":
        place = "in the list of tools"
    else:
        place = f"message {finding.message} ({finding.role}), character {finding.offset:,}"
    return f"{place}; prompts break after {finding.token_offset:,} tokens"


def worth(finding: Finding, diagnosis: Diagnosis) -> str:
    """What mending it wins, in words."""
    alone, last = points(finding.tokens_alone, diagnosis), points(finding.tokens_last, diagnosis)
    if finding.tokens_alone == finding.tokens_last:
        return f"{alone} points ({finding.tokens_alone:,} tokens)"
    alone = "nothing" if finding.tokens_alone <= 0 else f"{alone} points ({finding.tokens_alone:,} tokens)"
    last = "nothing" if finding.tokens_last <= 0 else f"{last} points ({finding.tokens_last:,} tokens)"
    return f"{alone} alone; {last} once the others are mended"


def title(finding: Finding) -> str:
    """What the defect is called."""
    return REMEDIES[finding.kind].title


def need_in_words(need: Need) -> str:
    """How much cache, and how many replicas."""
    if not need.working_set_blocks:
        return "none: no block is ever used again"
    tokens = f"{need.working_set_tokens:,} tokens ({need.working_set_blocks:,} blocks)"
    if need.working_set_bytes is None:
        return f"{tokens}; the model's config.json does not say how many bytes that is"
    replicas = f"{need.replicas} replica{'s' if need.replicas != 1 else ''}"
    each = size(need.kv_bytes_per_replica)
    return f"{tokens}, {size(need.working_set_bytes)} of KV cache: {replicas} of {each}"


def caveats(diagnosis: Diagnosis) -> list[str]:
    """What limits the figures, if anything does."""
    facts, notes = diagnosis.facts, []
    if facts.broken:
        shown = "; ".join(f"line {number}: {reason}" for number, reason in facts.first_broken)
        more = "; …" if facts.broken > len(facts.first_broken) else ""
        lines = "broken line was" if facts.broken == 1 else "broken lines were"
        notes.append(f"{facts.broken:,} {lines} left out ({shown}{more}).")
    if facts.skipped:
        notes.append(f"Left out, since they are no chat or text completions: {counted(facts.skipped)}.")
    if facts.newest_first:
        notes.append("The newest requests come first: sort the log by time, or its figures are wrong.")
    if facts.refused:
        notes.append(f"{facts.refused:,} requests were left out: the model's chat template refuses them.")
    if facts.cut_off:
        notes.append(f"The log could not be read to its end: {facts.cut_off}.")
    if facts.stand_in:
        notes.append(
            f"{facts.model} stood in for your model: name yours with --model for its own tokens and memory."
        )
    if facts.tools_added:
        notes.append("Its template shows no tools; they are counted as JSON in front of the instructions.")
    if facts.sample_share < 1:
        notes.append(
            f"Defects were looked for in {percent(facts.sample_share)} of the requests, whole conversations "
            "drawn by lot, and scaled up; the hit rate and the sizes of today's traffic are from all of them."
        )
    if facts.images:
        notes.append(f"{facts.images:,} parts that are no text (images) count as a short marker.")
    if facts.forgotten_blocks:
        notes.append("Blocks not met for a very long time were forgotten; the hit rate is a little too low.")
    if facts.restarts:
        notes.append("The simulated caches were full and began anew: what fixes win is somewhat too low.")
    if facts.forgotten_histories:
        notes.append("Some conversations paused so long that changes in their histories were not seen.")
    return notes
