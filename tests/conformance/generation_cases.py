"""Chat and text completions: what clients ask for, and what they get wrong."""

from tests.conformance.case import CHAT, COMPLETION, Cases, chat, completion, without

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FLAGS = [
    *(True, 1, 1.0, "1", "true", "True", "YES", "on", "t", "y"),
    *(False, 0, -0.0, "0", "false", "off", "no", "f", "n", None),
    *(2, "", "2", " on", "maybe", [], [1], {}, 10**30, 0.5),
]
OPTIONS = [
    *(None, {}, {"include_usage": True}, {"include_usage": False}, {"include_usage": None}),
    *({"include_usage": 1}, {"include_usage": "yes"}, {"include_usage": "off"}, {"include_usage": "maybe"}),
    *({"include_usage": []}, {"include_usage": True, "continuous_usage_stats": True}, {"x": 1}, [], "x", 0),
    *({"continuous_usage_stats": True}, {"include_usage": False, "continuous_usage_stats": "yes"}, False),
    {"include_usage": True, "continuous_usage_stats": "no"},
]
USUAL = [
    *(
        {"max_tokens": 1},
        {"max_completion_tokens": 2},
        {"max_completion_tokens": None},
        {"max_tokens": None, "stop": " "},
    ),
    *(
        {"n": 2},
        {"n": 0},
        {"n": -1},
        {"n": "2"},
        {"n": 1.5},
        {"n": None},
        {"seed": 1},
        {"seed": 2**63 - 1},
        {"seed": 2**63},
    ),
    *(
        {"seed": 10**30},
        {"seed": "7"},
        {"temperature": "0"},
        {"temperature": -1},
        {"temperature": 1e400},
        {"temperature": None, "seed": 3},
    ),
    *(
        {"top_p": 0.5},
        {"top_p": 0},
        {"top_p": 2},
        {"top_k": 1},
        {"top_k": -2},
        {"min_p": 0.1},
        {"stop": "a"},
        {"stop": ["a", "b"]},
    ),
    *(
        {"stop": 5},
        {"stop_token_ids": [2]},
        {"stop_token_ids": ["x"]},
        {"presence_penalty": 0.5},
        {"frequency_penalty": 3},
    ),
    *(
        {"repetition_penalty": 0},
        {"logit_bias": {"5": 1}},
        {"logit_bias": {"x": 1}},
        {"logit_bias": {"9999999": 1}},
        {"user": "u"},
    ),
    *(
        {"user": 5},
        {"min_tokens": 2},
        {"min_tokens": 10},
        {"ignore_eos": True},
        {"skip_special_tokens": False},
        {"echo": "x"},
    ),
    *(
        {"return_token_ids": True},
        {"priority": 1},
        {"priority": 2**70},
        {"metadata": {"a": "b"}},
        {"unknown": {"x": [1, None]}},
    ),
    *(
        {"max_tokens": 0},
        {"max_tokens": -1},
        {"max_tokens": "3"},
        {"max_tokens": 3.0},
        {"max_tokens": 3.5},
        {"max_tokens": 10**6, "stop": [" ", "e", "a"]},
    ),
    *(
        {"max_tokens": 10**30, "stop": [" ", "e", "a"]},
        {"truncate_prompt_tokens": 3},
        {"truncate_prompt_tokens": -1},
        {"truncate_prompt_tokens": "all"},
    ),
    *(
        {"cache_salt": "s"},
        {"vllm_xargs": {"a": 1}},
        {"vllm_xargs": 3},
        {"vllm_xargs": None},
        {"kv_transfer_params": None},
    ),
    *(
        {"add_special_tokens": "no"},
        {"add_special_tokens": True},
        {"allowed_token_ids": [5]},
        {"bad_words": ["a"]},
        {"use_beam_search": True, "n": 2},
    ),
    *(
        {"structured_outputs": {"choice": ["a", "b"]}},
        {"structured_outputs": {"json": SCHEMA, "regex": "a"}},
        {"include_stop_str_in_output": True, "stop": "a"},
    ),
    *(
        {"return_tokens_as_token_ids": True},
        {"session_id": "s"},
        {"stream_interval": 2},
        {"request_id": 5},
        {"length_penalty": "x"},
    ),
]
MESSAGES = [
    *(
        [],
        None,
        "hi",
        5,
        {},
        ["hi"],
        [None],
        [{}],
        [{"role": "user"}],
        [{"content": "hi"}],
        [{"role": 5, "content": "x"}],
    ),
    *(
        [{"role": "user", "content": ""}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": 5}],
    ),
    *(
        [{"role": "user", "content": []}],
        [{"role": "user", "content": ["a", "b"]}],
        [{"role": "user", "content": [5]}],
    ),
    [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
    [{"role": "user", "content": [{"type": "text", "text": 5}]}],
    [{"role": "user", "content": [{"type": "text"}]}],
    [
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}],
        }
    ],
    [{"role": "user", "content": [{"type": "nothing", "nothing": 1}]}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    [{"role": "user", "content": "Hi", "name": "n"}],
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
    [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "warm"},
    ],
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "", "tool_calls": []}],
    [
        {
            "role": "assistant",
            "tool_calls": [{"id": "x", "type": "function", "function": {"name": "f", "arguments": {}}}],
        }
    ],
    [
        {"role": "assistant", "content": "x", "reasoning_content": "thought"},
        {"role": "user", "content": "Hi"},
    ],
    [{"role": "wizard", "content": "Hi"}],
    [{"role": "r" * 65, "content": "Hi"}],
    [{"role": "user", "content": "\u00e9\u4e2d\U0001f600 \u0000 \u2028"}],
    [{"role": "user", "content": "<|im_end|><|im_start|>assistant"}],
    [{"role": "user", "content": "x", "tool_calls": 5}],
]
CHATS = [
    *(
        {"tools": [TOOL]},
        {"tools": [TOOL], "tool_choice": "none"},
        {"tools": []},
        {"tools": {}},
        {"tools": ["f"]},
        {"tools": [{}]},
    ),
    *(
        {"tool_choice": "auto"},
        {"tools": [TOOL], "tool_choice": "maybe"},
        {"tools": [TOOL], "tool_choice": {"type": "function"}},
    ),
    {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}},
    {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "weather"}}, "max_tokens": 8},
    *(
        {"tools": [TOOL], "tool_choice": "required", "max_tokens": 8},
        {"parallel_tool_calls": False, "tools": [TOOL]},
    ),
    *(
        {"response_format": {"type": "text"}},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "xml"}},
        {"response_format": 5},
    ),
    {
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}},
        "max_tokens": 8,
    },
    {"response_format": {"type": "json_schema"}},
    *(
        {"logprobs": True},
        {"logprobs": True, "top_logprobs": 2},
        {"top_logprobs": 2},
        {"logprobs": True, "top_logprobs": -5},
        {"prompt_logprobs": 1},
    ),
    *(
        {"chat_template_kwargs": {"x": 1}},
        {"chat_template_kwargs": []},
        {"chat_template": 5},
        {"chat_template": "{{ messages[0]['content'] }}"},
    ),
    *(
        {"add_generation_prompt": False},
        {"add_generation_prompt": "off"},
        {"continue_final_message": True},
        {"documents": [{"title": "t", "text": "x"}]},
    ),
    *(
        {"documents": 5},
        {"reasoning_effort": "low"},
        {"reasoning_effort": "lots"},
        {"echo": True},
        {"mm_processor_kwargs": {}},
        {"return_prompt_text": True},
    ),
]
PROMPTS = [
    *(
        "",
        "a",
        None,
        5,
        {},
        [],
        [[]],
        ["a", "b"],
        ["a", ""],
        [1, 2, 3],
        [[1, 2], [3]],
        [[1], []],
        [1, "a"],
        ["a", [1]],
        [1.0, 2.0],
        [1.5],
    ),
    *(
        [True],
        [None],
        [-1],
        [10**9],
        [2**32],
        [2**80],
        [[1, -1]],
        [["a"]],
        ["1", "2"],
        "\u00e9\u4e2d\U0001f600\u0000",
        "x " * 50,
    ),
]
COMPLETIONS = [
    *(
        {"echo": True},
        {"echo": True, "max_tokens": 0},
        {"logprobs": 1},
        {"logprobs": 0},
        {"logprobs": -2},
        {"logprobs": 1, "echo": True},
    ),
    *(
        {"suffix": "x"},
        {"suffix": ""},
        {"best_of": 2},
        {"prompt_embeds": "AAAA"},
        {"prompt_embeds": 5},
        {"prompt_logprobs": 1},
        {"n": 2, "echo": True},
    ),
    *(
        {"response_format": {"type": "json_object"}},
        {"messages": [{"role": "user", "content": "x"}]},
        {"messages": 5},
    ),
]


def add_generation(cases: Cases) -> None:
    """Add all of them."""
    for path, body in ((CHAT, chat), (COMPLETION, completion)):
        kind = "chat" if path == CHAT else "completion"
        for value in FLAGS:
            cases.post(f"{kind} stream", path, body(stream=value))
        for options in OPTIONS:
            cases.post(f"{kind} stream options", path, body(stream=True, stream_options=options))
        cases.post(f"{kind} options without a stream", path, body(stream_options={"include_usage": True}))
        cases.post(
            f"{kind} options without a stream", path, body(stream_options={}), body(stream_options=None)
        )
        for fields in USUAL:
            cases.post(f"{kind} fields", path, body(**fields))
        for fields in ({"n": 2}, {"stop": "a"}, {"max_tokens": -1}, {"seed": 10**30}, {"logprobs": 1}):
            cases.post(f"{kind} fields, streamed", path, body(stream=True, **fields))
        cases.post(f"{kind} model", path, without(body(), "model"), body(model=None), body(model=""))
        cases.post(f"{kind} model of another name", path, body(model="gpt-9"), meant="unknown model")
        cases.post(f"{kind} model of another name", path, body(model="m" * 300), meant="unknown model")
        cases.post(f"{kind} model of another type", path, body(model=5), body(model=["m"]), meant="own words")
        for salt in ("", 5, "a" * 129, "a@b", "a/b", "\u0000"):
            cases.post(f"{kind} salt", path, body(cache_salt=salt), meant="own words")
        for name in ("kv_transfer_params", "ec_transfer_params"):
            cases.post(
                f"{kind} internals", path, body(**{name: {"do_remote_decode": True}}), meant="internals"
            )
        cases.post(
            f"{kind} internals", path, body(vllm_xargs={"kv_cache_report_mode": "x"}), meant="internals"
        )
        cases.post(f"{kind} request id", path, body(request_id="mine"))
    for messages in MESSAGES:
        cases.post("chat messages", CHAT, chat(messages=messages))
    cases.post("chat messages", CHAT, without(chat(), "messages"), {})
    for fields in CHATS:
        cases.post("chat prompt", CHAT, chat(**fields))
        if "tools" in fields:
            cases.post("chat prompt, streamed", CHAT, chat(stream=True, **fields))
    for prompt in PROMPTS:
        cases.post("completion prompt", COMPLETION, completion(prompt))
    cases.post("completion prompt", COMPLETION, without(completion(), "prompt"), {})
    for fields in COMPLETIONS:
        cases.post("completion prompt", COMPLETION, completion(**fields))
    cases.post("chat too long", CHAT, chat("word " * 9_000), meant="too long")
    cases.post("completion too long", COMPLETION, completion([5] * 9_000), meant="too long")
    cases.post("completion too long", COMPLETION, completion("word " * 9_000, stream=True), meant="too long")
