"""The diagnosis as one page that needs nothing else."""

from markupsafe import Markup

from loadtest.charts.page import render_page
from loadtest.doctor import wording
from loadtest.doctor.curve_plot import COLOURS, curve_svg
from loadtest.doctor.diagnosis import Diagnosis
from loadtest.doctor.kinds import REMEDIES

MAX_OPENINGS = 20
MAX_PERSONAL = 50


def as_html(diagnosis: Diagnosis, command: str) -> str:
    """The page."""
    most = max((finding.tokens for finding in diagnosis.findings), default=1)
    return render_page(
        "loadtest.doctor",
        "doctor.html.j2",
        COLOURS,
        diagnosis=diagnosis,
        facts=diagnosis.facts,
        rates=diagnosis.hit_rates,
        sizing=diagnosis.sizing,
        remedies=REMEDIES,
        wording=wording,
        most=max(most, 1),
        openings=diagnosis.openings[:MAX_OPENINGS],
        personal=diagnosis.personal[:MAX_PERSONAL],
        curve=Markup(curve_svg(diagnosis.sizing)),
        caveats=wording.caveats(diagnosis),
        command=command,
    )
