"""The flags that the locustfile adds to Locust's own."""

from argparse import BooleanOptionalAction
from collections.abc import Mapping
from typing import Any

import msgspec
from locust.argument_parser import LocustArgumentParser, get_empty_argument_parser

DEFAULT_SCENARIO = "support-bot"


class OptionError(ValueError):
    """A flag has a value that cannot be used; the message names it."""


class Options(msgspec.Struct, frozen=True):
    """What the flags say. Those of Locust itself are left out."""

    scenario: str = DEFAULT_SCENARIO
    weights: str = ""
    trace: str = ""
    speed: float = 1.0
    length_scale: float = 1.0
    seed: int = 0
    model: str = ""
    api_key: str = ""
    stream: bool = True
    max_turns: int = 0
    timeout: float = 600.0
    extra_body: str = ""
    json_summary: str = ""

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
    parser.add_argument(
        "--scenario",
        default=DEFAULT_SCENARIO,
        env_var="LOCUST_SCENARIO",
        include_in_web_ui=False,
        help="name of a scenario, or path of a .toml file. Default: %(default)s",
    )
    parser.add_argument(
        "--weights",
        default="",
        env_var="LOCUST_WEIGHTS",
        include_in_web_ui=False,
        help="other weights for the scenario's kinds of users, such as chat=3,rag=0",
    )
    parser.add_argument(
        "--trace",
        default="",
        env_var="LOCUST_TRACE",
        include_in_web_ui=False,
        help="instead of a scenario: recorded requests, JSON lines in Mooncake's format",
    )
    parser.add_argument(
        "--speed",
        type=float,
        default=1.0,
        include_in_web_ui=False,
        help="of a trace: times its own rate. Default: 1",
    )
    parser.add_argument(
        "--length-scale",
        type=float,
        default=1.0,
        include_in_web_ui=False,
        help="of a trace: shorten prompts and answers, such as 0.125. Default: 1",
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed means the same conversations")
    parser.add_argument("--model", default="", help="default: the first one that GET /v1/models names")
    parser.add_argument(
        "--api-key", default="", env_var="LOCUST_API_KEY", is_secret=True, help="bearer token"
    )
    parser.add_argument(
        "--stream",
        action=BooleanOptionalAction,
        default=True,
        help="stream answers; without, there is no TTFT",
    )
    parser.add_argument("--max-turns", type=int, default=0, help="of a conversation; 0: as in the scenario")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds per request. Default: 600")
    parser.add_argument(
        "--extra-body",
        default="",
        help="JSON object added to every request, such as '{\"ignore_eos\": true}'",
    )
    parser.add_argument(
        "--json-summary",
        default="",
        include_in_web_ui=False,
        help="file for the summary, as JSON. Locust's --csv writes CSV",
    )


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
