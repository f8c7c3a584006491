"""Token-exact continuation: a kept response is gone on from in the tokens that its engine generated.

A template may write an answer in other tokens than the model did; then the engine computes it again. Instead
the engine gets the tokens that it holds, and after them those of what the client has added.
"""

import msgspec
import xxhash

from cluster.errors import PromptError
from cluster.fleet.replicas import Model
from cluster.prompts.tokenizer import PromptTokenizer
from cluster.protocol.block_keys import unpack_tokens
from router.requests.schema import Call
from router.stored.held import Held, Shape

EXACT = "exact"
SHAPING = ("tools", "documents", "chat_template_kwargs", "reasoning_effort")
"""Fields of a chat that may change how all of its prompt is rendered."""


def shape_of(call: Call, tokenizer: PromptTokenizer) -> Shape:
    """What must stay the same from one turn to the next."""
    fields, [first, *_] = call.fields, call.messages
    about = {name: fields.get(name) or None for name in SHAPING}
    about["tokenizer"] = tokenizer.fingerprint
    about["model"], about["tool_choice"] = call.model, fields.get("tool_choice") == "none"
    about["instructions"] = first if first["role"] == "system" else None
    return {name: xxhash.xxh3_64_intdigest(msgspec.json.encode(value)) for name, value in about.items()}


def continued(
    call: Call, before: Held, is_cut: bool, num_new: int, tokenizer: PromptTokenizer, model: Model
) -> tuple[Call, str]:
    """The call with the tokens held and those of its last messages, ``num_new`` of them; or the same call,
    and what keeps it from that. An answer that ``is_cut`` lacks its end.
    """
    changed = [name for name, digest in shape_of(call, tokenizer).items() if before.shape.get(name) != digest]
    if changed:
        return call, changed[0]
    answer = len(call.messages) - num_new - 1
    roles = [message["role"] for message in call.messages[answer:]] if answer >= 0 else []
    if not num_new or "assistant" in roles[1:] or roles[:1] != ["assistant"]:
        return call, "input"
    try:
        after = tokenizer.tokens_after(call.fields, answer)
    except PromptError:
        return call, "template"
    held = unpack_tokens(before.tokens)
    if held[-1] == after[0]:
        after = after[1:]
    elif not is_cut:  # it was ended by a text, or by a token that the template does not write
        return call, "end"
    token_ids = [*held, *after]
    if not model.fits(len(token_ids) + 1):
        return call, "context"
    given = msgspec.json.encode({"kv_transfer_params": {"prompt_token_ids": token_ids}})
    upstream = call.upstream_body().rstrip()[:-1] + b"," + given[1:]
    return msgspec.structs.replace(call, token_ids=token_ids, upstream=upstream), EXACT
