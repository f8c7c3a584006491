"""Why tokens were computed again: every token has one reason, and it is the right one."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.fleet.fleet import Fleet
from cluster.protocol.block_keys import block_keys
from cluster.protocol.wire import Lease, Load, ReplicaState
from router.explain.conversations import Conversations
from router.explain.explainer import Explainer
from router.explain.misses import Reason, attribute
from router.http.sse import PromptTokensDetails, Usage
from router.requests.prompts import PreparedPrompt
from router.requests.schema import parse_chat, parse_completion

BLOCK = 4
ANSWER = {"role": "assistant", "content": "well"}
GENERATED = "<as"
"""How the next prompt goes on, if it brings back an answer as it was generated."""


def said(content, role="user"):
    """A message."""
    return {"role": role, "content": content}


class Deployment:
    """Two replicas, and a tokenizer that makes one token of each character."""

    def __init__(self, remembered_bytes=1_000_000):
        self.fleet = Fleet(max_blocks=10_000)
        self.keys = []
        for name in "ab":
            self.start(name)
        self.explainer = Explainer(self.fleet, Conversations(remembered_bytes))

    def start(self, name, epoch=1, **changes):
        """A replica starts, or starts anew."""
        values = {"state": ReplicaState.READY, "model": "m", "block_size": BLOCK, "publishes_events": True}
        lease = Lease(replica=name, url="http://x", adapters=("lora",), **{**values, **changes})
        return self.fleet.admit(lease, epoch, Load())

    def evict(self, name, first, last=None):
        """A replica gives up some of the blocks of the last prompt."""
        replica = self.fleet.replicas[name]
        self.fleet.apply(replica, (), self.keys[first:last], cleared=False)

    def ask(
        self,
        messages,
        replica="a",
        cached=None,
        model="m",
        salt="",
        parse=parse_chat,
        generated=GENERATED,
        announced=True,
        sent=None,
        **fields,
    ):
        """Send a prompt to a replica, which computes it, and all that it generates but the last token.
        ``cached`` tokens are found; None: as believed. It is rendered of other messages than are ``sent``,
        if these are given.
        """
        body = {"model": model, "cache_salt": salt or None, **fields}
        body["messages" if parse is parse_chat else "prompt"] = sent or messages
        call = parse(msgspec.json.encode(body))
        text = "".join(f"<{m['role']}>{m['content']}" for m in messages) if parse is parse_chat else messages
        served = self.fleet.models[model]
        root = replace(served.namespace, cache_salt=salt).root()
        self.keys, held_after = (
            block_keys(root, [ord(c) for c in one], BLOCK) for one in (text, (text + generated)[:-1])
        )
        opening = text.find("<user>") if parse is parse_chat else 0
        prompt = PreparedPrompt(np.array(self.keys, dtype=np.uint64), len(text), opening, 1, True)
        snapshot = self.fleet.snapshot(served, prompt.keys, len(text), now=0.0)
        row = served.ids.index(replica)
        held = snapshot.cached_tokens.tolist()
        prediction = self.explainer.predict(call, prompt, served, row, held[row], max(held))
        announced_keys = [*self.keys, *held_after] if announced else self.keys
        self.fleet.apply(served.replicas[row], announced_keys, (), cleared=False)
        cached = held[row] if cached is None else cached
        self.tokens = len(text)
        usage = Usage(len(text), len(generated), PromptTokensDetails(cached))
        misses = self.explainer.reconcile(prediction, usage, True)
        self.divergence = prediction.divergence if prediction else None
        return misses


@pytest.fixture
def deployment():
    """Two replicas that hold nothing."""
    return Deployment()


def tail(num_tokens):
    """How many of so many tokens are never found in a cache."""
    return num_tokens - (num_tokens - 1) // BLOCK * BLOCK


def test_a_first_prompt_is_cold(deployment):
    """Nobody has seen it; only the tail is computed whatever is cached."""
    misses = deployment.ask([said("hello there, who are you?")])
    assert misses == {
        Reason.COLD: deployment.tokens - tail(deployment.tokens),
        Reason.TAIL: tail(deployment.tokens),
    }


def test_a_later_turn_computes_what_is_new(deployment):
    """Of a conversation that goes on, the new part is cold."""
    first = [said("hello there, who are you?")]
    deployment.ask(first)
    held = (deployment.tokens + len(GENERATED) - 1) // BLOCK * BLOCK
    misses = deployment.ask([*first, ANSWER, said("and what can you do?")])
    end = deployment.tokens - tail(deployment.tokens)
    assert misses == {Reason.COLD: end - held, Reason.TAIL: tail(deployment.tokens)}
    assert deployment.divergence is None


def test_what_another_replica_holds_was_diverted(deployment):
    """The request went elsewhere."""
    messages = [said("hello there, who are you?")]
    deployment.ask(messages)
    misses = deployment.ask(messages, replica="b")
    assert set(misses) == {Reason.DIVERTED, Reason.TAIL}


def test_what_was_given_up_was_evicted(deployment):
    """The end of a prompt made room for others."""
    messages = [said("hello there, who are you?")]
    deployment.ask(messages)
    deployment.evict("a", 3)
    misses = deployment.ask(messages)
    end = deployment.tokens - tail(deployment.tokens)
    assert misses == {Reason.EVICTED: end - 3 * BLOCK, Reason.TAIL: tail(deployment.tokens)}


def test_what_went_with_its_replica_was_lost(deployment):
    """The replica has left, or started anew; what it had given up before stays evicted."""
    messages = [said("hello there, who are you?")]
    deployment.ask(messages)
    deployment.evict("a", 5)
    deployment.fleet.dismiss("a")
    misses = deployment.ask(messages, replica="b")
    end = deployment.tokens - tail(deployment.tokens)
    assert misses[Reason.REPLICA_LOST] == 5 * BLOCK
    assert misses[Reason.EVICTED] == end - 5 * BLOCK
    deployment.start("b", epoch=2)
    assert set(deployment.ask(messages, replica="b")) == {Reason.REPLICA_LOST, Reason.TAIL}


def test_an_earlier_message_that_changed(deployment):
    """A date in the system prompt: the rest of what was sent before is computed again."""
    opening, turn = "Be kind. Today is 2026-11-22.", [said("hello there, who are you?")]
    deployment.ask([said(opening, "system"), *turn])
    before = deployment.tokens
    later = [said(opening.replace("22", "23"), "system"), *turn, ANSWER, said("and what can you do?")]
    misses = deployment.ask(later)
    same = len("<system>Be kind. Today is 2026-11-2") // BLOCK * BLOCK
    assert misses[Reason.DIVERGED] == (before + 3) // BLOCK * BLOCK - same
    assert set(misses) == {Reason.DIVERGED, Reason.COLD, Reason.TAIL}
    divergence = deployment.divergence
    assert (divergence.token, divergence.message, divergence.role, divergence.kind) == (
        same,
        0,
        "system",
        "date",
    )


@pytest.mark.parametrize("announced", [True, False])
def test_an_answer_that_the_template_writes_anew(deployment, announced):
    """Thoughts are left out of it: what was generated after them is computed again, for this reason. What
    the engine finds says where it begins, even if the last blocks of the answer were not announced yet.
    """
    first = [said("hello there, who are you?")]
    deployment.ask(first, generated="<assistant>let me think. well<user>", announced=announced)
    held = deployment.tokens + len("<assistant>")
    before = deployment.tokens
    cached = held // BLOCK * BLOCK
    misses = deployment.ask([*first, ANSWER, said("and what can you do?")], cached=cached)
    end = (before + len("<assistant>let me think. well<user>") - 1) // BLOCK * BLOCK
    cold = deployment.tokens - tail(deployment.tokens) - end
    assert misses == {
        Reason.RE_RENDERED: end - cached,
        Reason.COLD: cold,
        Reason.TAIL: tail(deployment.tokens),
    }
    place = cached, 1, "assistant", "re_rendered"
    assert msgspec.structs.astuple(deployment.divergence) == place


def test_an_earlier_answer_that_the_template_writes_anew(deployment):
    """It was part of the last prompt, whose messages all come back: which one it is, is not known."""
    first, thoughts = [said("hello there, who are you?")], {"reasoning": "let me think"}
    rendered = said("let me think. well", "assistant")
    deployment.ask([*first, rendered, said("go on")], sent=[*first, ANSWER | thoughts, said("go on")])
    misses = deployment.ask(
        [*first, ANSWER, said("go on"), ANSWER, said("and on")],
        sent=[*first, ANSWER | thoughts, said("go on"), ANSWER, said("and on")],
    )
    assert misses[Reason.RE_RENDERED] > 0
    assert (deployment.divergence.message, deployment.divergence.kind) == (-1, "re_rendered")


@pytest.mark.parametrize("why", ["the engine had it", "several answers", "left out", "not the model's"])
def test_no_answer_was_written_anew(deployment, why):
    """Its blocks are announced late; or it is not known which tokens the client should have brought back."""
    first = [said("Hi"), ANSWER, said("hello there, who are you?")]
    generated = "<assistant>let me think. well"
    deployment.ask(first, generated=generated, n=2 if why == "several answers" else 1)
    cached = (deployment.tokens + len(generated) - 1) // BLOCK * BLOCK
    after = {"left out": [], "not the model's": [said("no", "system")]}.get(why, [ANSWER])
    misses = deployment.ask(
        [*first, *after, said("and what can you do?")], cached=cached if why == "the engine had it" else None
    )
    assert Reason.RE_RENDERED not in misses
    assert deployment.divergence is None


def test_alike_first_turns_of_others_are_no_divergence(deployment):
    """Many conversations begin with the same words under another system prompt."""
    deployment.ask([said("You sell shoes.", "system"), said("hello")])
    misses = deployment.ask([said("You are a pirate.", "system"), said("hello")])
    assert set(misses) == {Reason.COLD, Reason.TAIL}


@pytest.mark.parametrize("other", [{"model": "lora"}, {"salt": "tenant"}])
def test_the_same_for_another_model_or_tenant(deployment, other):
    """Their blocks are not shared, though the text is the same."""
    messages = [said("Be kind and helpful to all.", "system"), said("hello there, who are you?")]
    deployment.ask(messages)
    misses = deployment.ask(messages, **other)
    end = (deployment.tokens + 3) // BLOCK * BLOCK
    assert misses[Reason.OTHER_NAMESPACE] == min(end, deployment.tokens - tail(deployment.tokens))


def test_an_opening_that_another_tenant_has_warm(deployment):
    """A new conversation under a shared system prompt, with another salt: the prompt was sent elsewhere."""
    opening = said("Be kind and helpful to all.", "system")
    deployment.ask([opening, said("hello there, who are you?")])
    misses = deployment.ask([opening, said("what is the weather like?")], salt="tenant")
    assert misses[Reason.OTHER_NAMESPACE] == len("<system>Be kind and helpful to all.") // BLOCK * BLOCK


def test_what_the_engine_lacks_though_believed_to_hold_it(deployment):
    """Evicted, if the engine says so in the meantime; else it is not known why."""
    messages = [said("hello there, who are you?")]
    deployment.ask(messages)
    misses = deployment.ask(messages, cached=2 * BLOCK)
    assert misses[Reason.UNKNOWN] == deployment.tokens - tail(deployment.tokens) - 2 * BLOCK
    deployment.evict("a", 2)
    deployment.fleet.apply(deployment.fleet.replicas["a"], deployment.keys, (), cleared=False)
    misses = deployment.ask(messages, cached=2 * BLOCK)
    assert misses[Reason.EVICTED] == deployment.tokens - tail(deployment.tokens) - 2 * BLOCK


def test_sent_before_and_not_seen_since(deployment):
    """The conversation goes on unchanged, but its blocks were forgotten without a trace."""
    first = [said("hello there, who are you?")]
    deployment.ask(first)
    deployment.fleet.index._confirmed.clear(deployment.fleet.replicas["a"].slot)
    misses = deployment.ask([*first, ANSWER, said("and what can you do?")])
    assert misses[Reason.UNKNOWN] > 0
    assert deployment.divergence is None


def test_a_cache_that_cannot_be_seen_explains_nothing(deployment):
    """A replica without events: all is unknown."""
    deployment.start("b", publishes_events=False)
    messages = [said("hello there, who are you?")]
    assert deployment.ask(messages, replica="b") == {Reason.UNKNOWN: deployment.tokens}


def test_an_engine_that_does_not_say_what_it_had(deployment):
    """Nothing is attributed."""
    call = parse_chat(b'{"model": "m", "messages": [{"role": "user", "content": "x"}]}')
    assert call.model == "m"
    assert deployment.explainer.reconcile(None, Usage(10, 1), True) is None


def test_text_completions_have_all_reasons_but_divergence(deployment):
    """They name no messages, so conversations cannot be told from each other."""
    deployment.ask("once upon a time there was", parse=parse_completion)
    misses = deployment.ask("once upon a time there is a fox", parse=parse_completion)
    assert set(misses) == {Reason.COLD, Reason.TAIL}


def under(frames, function, *arguments):
    """The result of a function that is called from deep in the stack."""
    return under(frames - 1, function, *arguments) if frames else function(*arguments)


@pytest.mark.parametrize("place", ["tools", "message"])
def test_what_is_nested_too_deeply_is_not_explained(deployment, place):
    """What could be parsed may be too deep to be hashed, or to be compared with the turn before."""
    deep = {"a": msgspec.Raw(b"[" * 500 + b"1" + b"]" * 500)}

    def predict(frames, *messages):
        call = parse_chat(
            msgspec.json.encode(
                {"model": "m", "tools": [deep] if place == "tools" else [], "messages": messages}
            )
        )
        prompt = PreparedPrompt(np.arange(20, dtype=np.uint64), 82, 0, 1, True)
        model = deployment.fleet.models["m"]
        prediction = under(frames, deployment.explainer.predict, call, prompt, model, 0, 0, 0)
        deployment.explainer.reconcile(prediction, Usage(82, 1, PromptTokensDetails(0)), answered=True)
        return prediction

    opening = said("x") | (deep if place == "message" else {})
    assert predict(0, opening) is not None
    predictions = [predict(frames, opening, ANSWER, said("again")) for frames in range(0, 750, 10)]
    assert predictions[0] is not None
    assert predictions[-1] is None


def test_memory_is_bounded():
    """Conversations beyond the bound are forgotten, the oldest first; nothing is remembered with 0 bytes."""
    for remembered_bytes, most in ((0, 0), (3_000, 5)):
        deployment = Deployment(remembered_bytes)
        for number in range(20):
            deployment.ask([said(f"hello from {number}")])
        assert len(deployment.explainer._conversations) <= most


TEXTS = st.sampled_from(["hello there", "what is 12?", "what is 13?", "tell me more please", "yes"])


@given(data=st.data())
def test_reasons_add_up_to_all_that_was_computed(data):
    """Whatever happens, every token that was not found in a cache has exactly one reason."""
    deployment = Deployment(data.draw(st.sampled_from([0, 2_000, 1_000_000])))
    for number in range(data.draw(st.integers(1, 12))):
        what = data.draw(st.sampled_from(["ask", "ask", "ask", "evict", "restart"]))
        name = data.draw(st.sampled_from("ab"))
        if what == "restart":
            deployment.start(name, epoch=number + 2)
        elif what == "evict":
            deployment.evict(name, data.draw(st.integers(0, 8)))
        else:
            turns = data.draw(st.lists(TEXTS, min_size=1, max_size=4))
            messages = [said(data.draw(TEXTS), "system")]
            for text in turns:
                messages += [said(text), ANSWER]
            cached = data.draw(st.one_of(st.none(), st.integers(0, 5).map(lambda n: n * BLOCK)))
            options = data.draw(st.sampled_from([{}, {"salt": "t"}, {"model": "lora"}]))
            misses = deployment.ask(messages[:-1], name, cached, **options)
            if cached is not None:
                assert sum(misses.values()) == max(deployment.tokens - cached, 0)
            assert all(tokens > 0 for tokens in misses.values())


@given(
    ends=st.lists(st.tuples(st.integers(0, 50), st.sampled_from(list(Reason)))),
    cached=st.integers(0, 60),
    length=st.integers(0, 60),
)
def test_attribution_is_exact_for_any_spans(ends, cached, length):
    """Parts may overlap, lie beyond the prompt, or leave a rest: the sum is right, the first part counts."""
    misses = attribute(tuple(ends), cached, length)
    assert sum(misses.values()) == max(length - cached, 0)
    expected = {}
    for token in range(cached, length):
        reason, reached = Reason.UNKNOWN, 0
        for end, candidate in ends:
            if token < end:
                reason = candidate
                break
            reached = max(reached, end)
        expected[reason] = expected.get(reason, 0) + 1
    assert misses == expected
