"""The flags that the locustfile adds to Locust's own."""

from argparse import BooleanOptionalAction
from collections.abc import Mapping
from typing import Annotated, Any, get_args

import msgspec
from locust.argument_parser import LocustArgumentParser, get_empty_argument_parser

from loadtest.harness.chat_apis import APIS
from loadtest.workloads.trace_rows import TIME_UNITS, TOKENS_PER_ID

DEFAULT_SCENARIO = "support-bot"


class OptionError(ValueError):
    """A flag has a value that cannot be used; the message names it."""


def _flag(description: str, **extra: Any) -> msgspec.Meta:
    """How Locust shows a flag, and what else its parser is told."""
    return msgspec.Meta(description=description, extra=extra)


class Options(msgspec.Struct, frozen=True):
    """What the flags say. Those of Locust itself are left out."""

    scenario: Annotated[
        str,
        _flag(
            "name of a scenario, or path of a .toml file. Default: %(default)s",
            env_var="LOCUST_SCENARIO",
            include_in_web_ui=False,
        ),
    ] = DEFAULT_SCENARIO
    weights: Annotated[
        str,
        _flag(
            "other weights for the scenario's kinds of users, such as chat=3,rag=0",
            env_var="LOCUST_WEIGHTS",
            include_in_web_ui=False,
        ),
    ] = ""
    trace: Annotated[
        str,
        _flag(
            "instead of a scenario: recorded requests, JSON lines in Mooncake's format",
            env_var="LOCUST_TRACE",
            include_in_web_ui=False,
        ),
    ] = ""
    speed: Annotated[float, _flag("of a trace: times its own rate. Default: 1", include_in_web_ui=False)] = (
        1.0
    )
    length_scale: Annotated[
        float,
        _flag("of a trace: shorten prompts and answers, such as 0.125. Default: 1", include_in_web_ui=False),
    ] = 1.0
    tokens_per_id: Annotated[
        int, _flag("of a trace: tokens per hash id. Default: %(default)s", include_in_web_ui=False)
    ] = TOKENS_PER_ID
    time_unit: Annotated[
        str,
        _flag("unit of a trace's times. Default: %(default)s", include_in_web_ui=False, choices=TIME_UNITS),
    ] = "auto"
    seed: Annotated[int, _flag("the same seed means the same conversations")] = 0
    model: Annotated[str, _flag("default: the first one that GET /v1/models names")] = ""
    api_key: Annotated[str, _flag("bearer token", env_var="LOCUST_API_KEY", is_secret=True)] = ""
    api: Annotated[str, _flag("by which API users ask. Default: %(default)s", choices=tuple(APIS))] = "chat"
    stream: Annotated[
        bool, _flag("stream answers; without, there is no TTFT", action=BooleanOptionalAction)
    ] = True
    max_turns: Annotated[int, _flag("of a conversation; 0: as in the scenario")] = 0
    timeout: Annotated[float, _flag("seconds per request. Default: 600")] = 600.0
    extra_body: Annotated[
        str, _flag("JSON object added to every request, such as '{\"ignore_eos\": true}'")
    ] = ""
    json_summary: Annotated[
        str,
        _flag("file for the summary, as JSON. Locust's --csv writes CSV", include_in_web_ui=False),
    ] = ""

    def body_fields(self) -> dict[str, Any]:
        """Fields that every request has besides the usual ones. Raises `OptionError`."""
        try:
            return msgspec.json.decode(self.extra_body or "{}", type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise OptionError(f"--extra-body: expected a JSON object: {error}") from error

    def kind_weights(self, own: Mapping[str, int]) -> dict[str, int]:
        """Weights of the kinds of users: a scenario's ``own``, with those of the flag in their place. Kinds
        of weight 0 are left out. Raises `OptionError`.
        """
        weights = dict(own)
        for part in filter(None, (part.strip() for part in self.weights.split(","))):
            kind, _, weight = part.partition("=")
            if kind not in own:
                raise OptionError(f"--weights: no kind of users is called {kind}: {', '.join(own)}")
            if not weight.isdecimal():
                raise OptionError(f"--weights: {part}: expected a whole number, such as {kind}=2")
            weights[kind] = int(weight)
        if not any(weights.values()):
            raise OptionError("--weights: no kind of users is left")
        return {kind: weight for kind, weight in weights.items() if weight}


def add_options(parser: LocustArgumentParser) -> None:
    """Make Locust understand the flags, and show in its web UI those that a running Locust can change."""
    for field in msgspec.structs.fields(Options):
        kind, flag = get_args(field.type)
        options = dict(flag.extra) if kind in (str, bool) else {"type": kind, **flag.extra}
        name = f"--{field.name.replace('_', '-')}"
        parser.add_argument(name, default=field.default, help=flag.description, **options)


def early_options() -> Options:
    """The flags as they stand on the command line, in the environment and in Locust's configuration files.

    Locust reads flags after it has imported the locustfile; but which classes of users there are depends on
    them.
    """
    parser = get_empty_argument_parser(add_help=False)
    add_options(parser)
    known, _ = parser.parse_known_args()
    return options_from(known)


def options_from(namespace: Any) -> Options:
    """Our part of Locust's options. Raises `OptionError`."""
    given = {name: value for name, value in vars(namespace).items() if name in Options.__struct_fields__}
    options = msgspec.convert(given, Options, strict=False)
    if options.speed <= 0:
        raise OptionError(f"--speed {options.speed:g}: expected more than 0")
    if options.timeout <= 0:
        raise OptionError(f"--timeout {options.timeout:g}: expected more than 0")
    if options.max_turns < 0:
        raise OptionError(f"--max-turns {options.max_turns}: expected 0 or more")
    return options
