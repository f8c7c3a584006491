"""The diagnosis as JSON; docs/doctor.md says what every field means."""

import json
from dataclasses import asdict
from typing import Any

from loadtest.doctor.diagnosis import Diagnosis
from loadtest.doctor.kinds import REMEDIES
from loadtest.doctor.wording import caveats, verdict

VERSION = 1


def as_json(diagnosis: Diagnosis) -> str:
    """One JSON object."""
    tokens = max(diagnosis.facts.prompt_tokens, 1)
    document: dict[str, Any] = {"version": VERSION, "verdict": verdict(diagnosis)}
    document |= asdict(diagnosis)
    document["facts"]["sample_share"] = diagnosis.facts.sample_share
    document["findings"] = [
        asdict(finding)
        | {
            "kind": finding.kind.value,
            "title": REMEDIES[finding.kind].title,
            "advice": REMEDIES[finding.kind].advice,
            "simulated": REMEDIES[finding.kind].simulated,
            "points_alone": 100 * finding.tokens_alone / tokens,
            "points_last": 100 * finding.tokens_last / tokens,
        }
        for finding in diagnosis.findings
    ]
    for opening in document["openings"]:
        del opening["parent"]
    document["caveats"] = caveats(diagnosis)
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
