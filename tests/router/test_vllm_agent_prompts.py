"""The tokens of random Messages and Responses requests, beside those of vLLM's own conversion."""

import asyncio
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.errors import PromptError
from cluster.prompts.tokenizer import PromptTokenizer
from router.errors import InvalidRequestError
from router.requests.agent_calls import fitted
from router.requests.endpoints import ENDPOINTS
from router.requests.schema import MESSAGES_PATH
from tests.router.vllm_rendering import LENIENT_TEMPLATE, STRICT_TEMPLATE, VllmRendering, model_with
from tests.small_model import small_model

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800), pytest.mark.filterwarnings("ignore")]

texts = st.text(max_size=12) | st.sampled_from(
    ["", " ", "x-anthropic-billing-header: 1", "a\nb", "<|im_end|>"]
)
names = st.sampled_from(["f", "get_weather", "ns"])
ids = st.sampled_from(["call_1", "call_2", "c"])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
objects = st.dictionaries(st.text(max_size=4), values, max_size=3)
cache_control = st.just({"type": "ephemeral"})


def record(required, **optional):
    """Objects with these fields, each of the optional ones there or not."""
    return st.fixed_dictionaries(required, optional=optional)


# ---- Messages ----

text_block = record({"type": st.just("text"), "text": texts}, cache_control=cache_control)
thinking = record({"type": st.just("thinking"), "thinking": texts, "signature": st.just("s")})
redacted = st.just({"type": "redacted_thinking", "data": "x"})
tool_use = record({"type": st.just("tool_use"), "id": ids, "name": names, "input": objects})
tool_result = record(
    {"type": st.just("tool_result"), "tool_use_id": ids},
    content=texts | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": texts}), max_size=3),
    is_error=st.booleans(),
    cache_control=cache_control,
)
message = st.one_of(
    st.fixed_dictionaries(
        {
            "role": st.just("user"),
            "content": texts | st.lists(st.one_of(text_block, tool_result), max_size=3),
        }
    ),
    st.fixed_dictionaries(
        {
            "role": st.just("assistant"),
            "content": texts | st.lists(st.one_of(text_block, thinking, redacted, tool_use), max_size=4),
        }
    ),
    st.fixed_dictionaries({"role": st.just("system"), "content": texts | st.lists(text_block, max_size=2)}),
)
tool = record(
    {"name": names, "input_schema": objects},
    description=texts,
    strict=st.booleans(),
    cache_control=cache_control,
)
tool_change = st.fixed_dictionaries(
    {
        "role": st.just("system"),
        "content": st.lists(
            st.one_of(
                st.fixed_dictionaries(
                    {
                        "type": st.just("tool_addition"),
                        "tool": st.fixed_dictionaries(
                            {"type": st.just("tool_definition"), "definition": tool}
                        ),
                    }
                ),
                st.fixed_dictionaries(
                    {
                        "type": st.sampled_from(["tool_addition", "tool_removal"]),
                        "tool": st.fixed_dictionaries({"type": st.just("tool_reference"), "name": names}),
                    }
                ),
                text_block,
            ),
            max_size=2,
        ),
    }
)
messages_bodies = record(
    {
        "model": st.just("m"),
        "max_tokens": st.just(2000),
        "messages": st.lists(st.one_of(message, message, message, tool_change), min_size=1, max_size=6),
    },
    system=texts | st.lists(text_block, max_size=3),
    tools=st.lists(tool, max_size=3),
    tool_choice=st.sampled_from([{"type": "auto"}, {"type": "none"}, {"type": "any"}]),
    thinking=st.sampled_from(
        [{"type": "disabled"}, {"type": "adaptive"}, {"type": "enabled", "budget_tokens": 1024}]
    ),
    output_config=record({}, effort=st.sampled_from(["low", "max"])),
    chat_template_kwargs=record({}, enable_thinking=st.booleans()),
    metadata=st.just({"user_id": "u"}),
)

# ---- Responses ----

output_text = record({"type": st.just("output_text"), "text": texts}, annotations=st.just([]))
statuses = st.sampled_from(["completed", "incomplete", "in_progress"])
items = st.one_of(
    record(
        {
            "role": st.sampled_from(["user", "system", "developer"]),
            "content": texts
            | st.lists(
                st.fixed_dictionaries({"type": st.just("input_text"), "text": texts}), min_size=1, max_size=2
            ),
        },
        type=st.just("message"),
    ),
    st.fixed_dictionaries({"role": st.just("assistant"), "content": texts}),
    record(
        {
            "type": st.just("message"),
            "role": st.just("assistant"),
            "content": st.lists(output_text, min_size=1, max_size=2),
        },
        id=st.just("msg_1"),
        status=statuses,
    ),
    record(
        {
            "type": st.just("reasoning"),
            "summary": st.lists(
                st.fixed_dictionaries({"type": st.just("summary_text"), "text": texts}), max_size=2
            ),
        },
        id=st.just("rs_1"),
        content=st.lists(
            st.fixed_dictionaries({"type": st.just("reasoning_text"), "text": texts}), max_size=2
        ),
        status=statuses,
        encrypted_content=st.none(),
    ),
    record(
        {
            "type": st.just("function_call"),
            "call_id": ids,
            "name": names,
            "arguments": objects.map(json.dumps) | st.just("no json"),
        },
        id=st.just("fc_1"),
        namespace=st.just("ns"),
        status=st.just("completed"),
    ),
    record(
        {"type": st.just("custom_tool_call"), "call_id": ids, "name": names, "input": texts},
        id=st.just("ctc_1"),
    ),
    record(
        {
            "type": st.sampled_from(["function_call_output", "custom_tool_call_output"]),
            "call_id": ids,
            "output": texts,
        }
    ),
)
function = record(
    {"type": st.just("function"), "name": names, "parameters": objects, "strict": st.booleans()},
    description=texts,
)
response_tools = st.one_of(
    function,
    record({"type": st.just("custom"), "name": names}, description=texts),
    st.fixed_dictionaries(
        {
            "type": st.just("namespace"),
            "name": st.just("ns"),
            "description": texts,
            "tools": st.lists(function, min_size=1, max_size=2),
        }
    ),
    st.just({"type": "web_search_preview"}),
)
responses_bodies = record(
    {"model": st.just("m"), "input": texts | st.lists(items, min_size=1, max_size=6)},
    instructions=texts,
    tools=st.lists(response_tools, max_size=3),
    tool_choice=st.sampled_from(["auto", "none"]),
    reasoning=record({}, effort=st.sampled_from(["none", "low", "high"]), summary=st.just("auto")),
    truncation=st.sampled_from(["disabled", "auto"]),
    store=st.booleans(),
    metadata=st.just({"a": "b"}),
)


@pytest.fixture(scope="module", params=["own", "strict", "lenient"])
def model(request, tmp_path_factory):
    """vLLM's renderer and our tokenizer for one template."""
    real_model = directory = small_model(weights=False)
    if request.param != "own":
        template = STRICT_TEMPLATE if request.param == "strict" else LENIENT_TEMPLATE
        directory = model_with(template, real_model, tmp_path_factory.mktemp("model") / request.param)
    with asyncio.Runner() as runner:
        yield runner, VllmRendering(directory), PromptTokenizer(directory)


def test_template_is_judged_as_vllm_judges_it(model):
    """Whether system messages are merged, and how thinking is disabled."""
    runner, vllm, tokenizer = model
    assert tokenizer.merges_system == vllm.merges_system
    assert tokenizer.effort_without_thinking == runner.run(vllm.effort_without_thinking())


def ours(path, body, tokenizer):
    """Our tokens for a request; None where only the engine can tell."""
    try:
        call = ENDPOINTS[path].read(json.dumps(body).encode())
        if path == MESSAGES_PATH:
            call = fitted(call, tokenizer)
        return list(tokenizer.chat(call.fields).token_ids) if call.tokenisable else None
    except (PromptError, InvalidRequestError):
        return None


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
def test_random_requests_have_vllms_tokens(model, path):
    """What is tokenised here, and accepted by vLLM, has the same tokens; and that is most of it."""
    runner, vllm, tokenizer = model
    render = vllm.messages if path == "/v1/messages" else vllm.responses
    outcomes = []

    @settings(database=None, suppress_health_check=list(HealthCheck))
    @given(messages_bodies if path == "/v1/messages" else responses_bodies)
    def compare(body):
        expected, found = runner.run(render(body)), ours(path, body, tokenizer)
        outcomes.append((expected is not None, found is not None))
        if expected is not None and found is not None:
            assert found == expected

    compare()
    accepted = [known for fine, known in outcomes if fine]
    assert len(accepted) > len(outcomes) / 4
    assert sum(accepted) > len(accepted) / 2
