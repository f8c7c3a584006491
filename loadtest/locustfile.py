"""Load tests with Locust, for any OpenAI-compatible URL: see docs/load-tests.md.

locust -f loadtest/locustfile.py --host http://127.0.0.1:8000 --scenario support-bot
"""

import sys

from locust import User, events

from loadtest.scenarios.scenario import ScenarioError, load_scenario
from loadtest.users import conversation, replay
from loadtest.users.load_test import LoadTest
from loadtest.users.options import OptionError, Options, add_options, early_options


def user_classes(options: Options) -> dict[str, type[User]]:
    """The classes of users of this test, by name. Raises `OptionError` and `ScenarioError`."""
    if options.trace:
        workload = replay.read(options)
        load_test = LoadTest(workload.name)
        classes: list[type[User]] = [replay.user_class(workload, load_test)]
    else:
        scenario = load_scenario(options.scenario)
        load_test = LoadTest(scenario.name, scenario)
        weights = options.kind_weights({kind: spec.weight for kind, spec in scenario.kinds.items()})
        classes = [conversation.user_class(kind, weight, load_test) for kind, weight in weights.items()]
    load_test.listen(events)
    return {found.__name__: found for found in classes}


events.init_command_line_parser.add_listener(add_options)
try:
    globals().update(user_classes(early_options()))  # where Locust looks for classes of users
except (OptionError, ScenarioError) as error:
    sys.exit(f"locust: {error}")
