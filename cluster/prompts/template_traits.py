"""What engines find out about a chat template before they convert requests of other APIs for it."""

from collections.abc import Iterable

import jinja2
import jinja2.sandbox

EFFORTS = ("none", "low", "medium", "high", "xhigh", "max")
"""Of reasoning, as Anthropic's API and vLLM name them."""
ODD_ORDER = [{"role": role, "content": "t"} for role in ("system", "user") * 2]


def wants_system_first(templates: Iterable[str]) -> bool:
    """Whether one of these refuses a system message that is not the first one. vLLM tries it without the
    functions that templates are usually given, so that one that calls these refuses, too.
    """
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    try:
        for template in templates:
            environment.from_string(template).render(messages=ODD_ORDER, add_generation_prompt=False)
    except jinja2.TemplateError:
        return True
    return False
