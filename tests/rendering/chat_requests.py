"""Random requests over all fields that may change a prompt, as clients send them, and odder."""

from typing import Any

from hypothesis import strategies as st

WORDS = st.sampled_from(
    ["Hello", " world", "\n", "  ", "x-anthropic-billing-header: cc=1; cch=abc;", "<think>why</think>",
     "</think>", "<|im_start|>", "<|im_end|>\n", "<|eot_id|>", "{{ 7 }}", "<tool_response>a</tool_response>",
     "東京", "🚀", "é\u0301", "123456", "'s", "\t", "\u00a0", "<|endoftext|>", "a" * 40, "\r\n",
     "CONTINUE_FINAL_MESSAGE_TAG "]
)  # fmt: skip
TEXTS = st.lists(WORDS, max_size=5).map("".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
OBJECTS = st.dictionaries(st.sampled_from("abcde"), JSON, max_size=3)


def fields(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of these fields, in any order."""
    return st.fixed_dictionaries(required, optional=optional).flatmap(
        lambda found: st.permutations(list(found.items())).map(dict)
    )


ODD_PARTS = st.one_of(
    TEXTS,
    fields({"type": st.just("refusal"), "refusal": TEXTS | st.none()}, {}),
    fields({"type": st.just("thinking"), "thinking": TEXTS}, {"closed": st.booleans()}),
    fields({"type": st.sampled_from(["input_text", "output_text"]), "text": TEXTS}, {}),
    fields({"type": st.just("tool_reference"), "name": st.just("f")}, {}),
    fields({"type": st.just("text")}, {"text": st.none() | TEXTS, "uuid": st.none() | st.just("u")}),
    st.sampled_from(
        [{"text": "no type"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}, 5]
    ),
)
TEXT_PARTS = fields(
    {"type": st.just("text"), "text": TEXTS},
    {"cache_control": st.just({"type": "ephemeral"}), "annotations": st.just([]), "name": TEXTS},
)
CONTENTS = st.integers(0, 19).flatmap(
    lambda number: (
        st.lists(TEXT_PARTS | ODD_PARTS, max_size=3)
        if not number
        else st.lists(TEXT_PARTS, min_size=1, max_size=3)
        if number < 6
        else TEXTS
    )
)
ARGUMENTS = st.sampled_from(
    [
        "{}",
        "",
        '{"b": 1, "a": ["x", null]}',
        "[1]",
        "null",
        "not json",
        '{"a": 1e999, "b": NaN}',
        '{"a":1,"a":2}',
        '"é"',
    ]
)
FUNCTIONS = fields({"name": st.sampled_from(["f", "get_weather"]), "arguments": ARGUMENTS}, {"extra": JSON})
CALLS = fields(
    {"id": st.sampled_from(["1", "call_2"]), "type": st.just("function"), "function": FUNCTIONS},
    {"index": st.just(0)},
)
ODD_CALLS = st.sampled_from(
    [{"function": {"name": "f", "arguments": {}}},
     {"id": "1", "type": "custom", "custom": {"name": "f", "input": ""}},
     {"id": "1", "type": "function", "function": {"name": "f"}}, 3]
)  # fmt: skip
SWITCHES = st.none() | st.booleans()
TOOLS = fields(
    {
        "type": st.just("function"),
        "function": fields(
            {"name": st.sampled_from(["f", "get_weather"])},
            {"description": st.none() | TEXTS, "parameters": st.none() | OBJECTS, "strict": SWITCHES,
             "defer_loading": SWITCHES, "extra": JSON},
        ),
    },
    {"defer_loading": SWITCHES, "cache_control": st.just({"type": "ephemeral"})},
)  # fmt: skip
EXTRAS = {"name": st.sampled_from(["Alice", ""]), "cache_control": st.just({}), "task": st.just("t")}


def messages_of(
    role: str, others: dict[str, Any], content: Any = CONTENTS
) -> st.SearchStrategy[dict[str, Any]]:
    """Messages of one role."""
    return fields({"role": st.just(role), "content": content}, {**EXTRAS, **others})


USERS = messages_of("user", {})
ASSISTANTS = messages_of(
    "assistant",
    {
        "tool_calls": st.integers(0, 9).flatmap(
            lambda number: st.lists(CALLS if number else CALLS | ODD_CALLS, max_size=2)
        )
        | st.none(),
        "reasoning": st.none() | TEXTS,
        "reasoning_content": st.none() | TEXTS,
        "refusal": st.none() | TEXTS,
        "prefix": st.booleans(),
    },
    CONTENTS | st.none(),
)
ROLES = [
    USERS,
    USERS,
    USERS,
    ASSISTANTS,
    ASSISTANTS,
    ASSISTANTS,
    messages_of("system", {}),
    messages_of("tool", {"tool_call_id": st.just("1")}),
    messages_of("tool", {"tool_call_id": st.just("1")}),
    messages_of("developer", {"tools": st.none() | st.lists(TOOLS, max_size=1)}),
    messages_of("ipython", {}),
]
ODD_MESSAGES = st.sampled_from(
    [{"role": "user"}, {"role": "user", "content": None}, {"role": "function", "content": "1", "name": "f"}]
)
MESSAGES = st.integers(0, 40).flatmap(lambda number: ROLES[number % len(ROLES)] if number else ODD_MESSAGES)
CONVERSATIONS = st.tuples(
    st.lists(messages_of("system", {}), max_size=1), st.lists(MESSAGES, min_size=1, max_size=6)
).map(lambda parts: [*parts[0], *parts[1]])
DOCUMENTS = st.none() | st.lists(fields({"text": TEXTS}, {"title": TEXTS}), max_size=2)
EFFORTS = st.sampled_from(["none", "low", "high", "max"])
OPTIONS = fields(
    {},
    {
        "enable_thinking": SWITCHES | st.just("auto"),
        "add_generation_prompt": SWITCHES,
        "continue_final_message": SWITCHES,
        "documents": DOCUMENTS,
        "tools": st.none() | st.lists(st.just({"name": "g"}) | TOOLS, max_size=1),
        "custom_tools": st.just([{"name": "h"}]),
        "tools_in_user_message": st.booleans(),
        "builtin_tools": st.just(["browser", "code_interpreter"]),
        "date_string": TEXTS,
        "bos_token": TEXTS,
        "reasoning_effort": EFFORTS | st.just("odd"),
        "unknown": JSON,
    },
) | st.sampled_from(
    [{"messages": []}, {"tokenize": True}, {"tokenize": False},
     {"padding": True, "max_length": 3, "truncation": True},
     {"return_dict": True}, {"return_assistant_tokens_mask": True}, {"tokenizer_kwargs": {}}, {"tools": "x"},
     {"chat_template": "x"}, {"chat_template": None}, {"conversation": []}, {"namespace": 1}]
)  # fmt: skip
CHATS = fields(
    {"messages": CONVERSATIONS},
    {
        "tools": st.lists(TOOLS, min_size=1, max_size=2),
        "tool_choice": st.sampled_from(
            ["none", "none", "auto", "required", None, {"type": "function", "function": {"name": "f"}}]
        ),
        "documents": DOCUMENTS,
        "reasoning_effort": st.none() | EFFORTS,
        "chat_template_kwargs": st.none() | OPTIONS,
    },
).flatmap(
    lambda chat: (
        fields(
            {name: st.just(value) for name, value in chat.items()},
            {
                "add_generation_prompt": st.booleans(),
                "continue_final_message": st.booleans(),
                "add_special_tokens": st.booleans(),
                "echo": st.booleans(),
                "include_reasoning": st.booleans(),
                "parallel_tool_calls": st.booleans(),
                "max_tokens": st.just(3),
                "response_format": st.sampled_from([{"type": "text"}, {"type": "json_object"}]),
                "user": st.just("u"),
                "prompt_logprobs": st.just(0),
            },
        )
        if len(chat) > 2
        else st.just(chat)
    )
)
RARE_CHATS = fields(
    {"messages": CONVERSATIONS},
    {
        "truncate_prompt_tokens": st.integers(-1, 9),
        "truncation_side": st.sampled_from(["left", "right"]),
        "add_generation_prompt": st.sampled_from([True, None, "no", 0]),
        "continue_final_message": st.sampled_from([True, "yes", 1]),
        "add_special_tokens": st.sampled_from([True, "on", 0]),
        "chat_template": st.none() | st.just("{{ messages[0].content }}"),
        "functions": st.just([{"name": "f"}]),
        "thinking": st.just({"type": "enabled"}),
        "mm_processor_kwargs": st.none(),
    },
)
TOKEN_IDS = st.lists(st.integers(0, 2000), min_size=1, max_size=6)
COMPLETIONS = fields(
    {
        "prompt": st.one_of(
            TEXTS,
            TEXTS,
            TOKEN_IDS,
            st.lists(TEXTS, min_size=1, max_size=3),
            st.lists(TOKEN_IDS, min_size=1, max_size=3),
        )
    },
    {
        "add_special_tokens": st.booleans(),
        "echo": st.booleans(),
        "suffix": st.none(),
        "max_tokens": st.just(3),
        "prompt_logprobs": st.just(1),
    },
) | fields(
    {"prompt": TEXTS},
    {"suffix": TEXTS, "truncate_prompt_tokens": st.integers(-1, 9), "truncation_side": st.just("left")},
)
REQUESTS = st.one_of(CHATS, CHATS, CHATS, CHATS, CHATS, CHATS, RARE_CHATS, COMPLETIONS)
