"""The diagnosis as one page that needs nothing else."""

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from loadtest.doctor import wording
from loadtest.doctor.curve_plot import curve_svg
from loadtest.doctor.diagnosis import Diagnosis
from loadtest.doctor.kinds import REMEDIES
from loadtest.replay.palette import EMPHASIS, GROUND, OTHERS

MAX_OPENINGS = 20
MAX_PERSONAL = 50
COLOURS = GROUND | {"now": OTHERS[1], "mended": EMPHASIS}


def as_html(diagnosis: Diagnosis, command: str) -> str:
    """The page."""
    environment = Environment(
        loader=PackageLoader("loadtest.doctor"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    most = max((finding.tokens for finding in diagnosis.findings), default=1)
    return environment.get_template("report.html.j2").render(
        diagnosis=diagnosis,
        facts=diagnosis.facts,
        rates=diagnosis.hit_rates,
        sizing=diagnosis.sizing,
        remedies=REMEDIES,
        wording=wording,
        variables=COLOURS,
        most=max(most, 1),
        openings=diagnosis.openings[:MAX_OPENINGS],
        personal=diagnosis.personal[:MAX_PERSONAL],
        curve=Markup(curve_svg(diagnosis.sizing)),
        caveats=wording.caveats(diagnosis),
        command=command,
    )
