"""Other routers' rules that weigh cache and load in one number."""

from policies.scoring import dynamo, least_work, llm_d_weighted, lmetric


def test_least_work_adds_queue_prompt_and_batch(snapshot_of, request_of):
    """Queued and uncached tokens, and 64 for each running request."""
    decision = least_work(
        request_of(), snapshot_of([960, 480, 0], queued=[500, 0, 0], running=[0, 1, 2], active=[9000, 0, 0])
    )
    assert list(decision.costs) == [540, 584, 1128]
    assert decision.row == 0


def test_lmetric_multiplies_tokens_by_the_batch(snapshot_of, request_of):
    """A long batch can cost more than an uncached prompt, and an idle replica counts as a batch of one."""
    decision = lmetric(request_of(), snapshot_of([960, 0, 0], queued=[200, 0, 0], running=[4, 0, 1]))
    assert list(decision.costs) == [1200, 1000, 2000]
    assert decision.row == 1


def test_dynamo_adds_prefill_and_decode_load(snapshot_of, request_of):
    """Tokens of running requests weigh as much as tokens to compute."""
    snapshot = snapshot_of([960, 0, 0], queued=[200, 0, 100], running=[9, 1, 1], active=[900, 200, 0])
    decision = dynamo(request_of(), snapshot)
    assert list(decision.costs) == [240 + 1900, 1000 + 1200, 1100 + 1000]
    assert decision.row == 2


def test_llm_d_weights_are_3_2_2(snapshot_of, request_of):
    """Missing prefix, queue above the shortest, tokens of the batch: each a share, 3 : 2 : 2."""
    snapshot = snapshot_of([500, 0, 0], queued=[300, 100, 200], active=[0, 500, 1000])
    decision = llm_d_weighted(request_of(), snapshot)
    assert list(decision.costs) == [1.5 + 2, 3 + 1, 3 + 1 + 2]
    assert decision.row == 0


def test_llm_d_weighted_sees_no_load_in_an_idle_or_even_fleet(snapshot_of, request_of):
    """Equal queues and empty batches add nothing, however long they are."""
    for queued in (0, 7000):
        decision = llm_d_weighted(request_of(), snapshot_of([0, 250], queued=[queued] * 2))
        assert list(decision.costs) == [3, 2.25]


def test_reasons_name_the_rule(snapshot_of, request_of):
    """The log says which rule decided."""
    rules = {"least-work": least_work, "lmetric": lmetric, "dynamo": dynamo, "llm-d-weighted": llm_d_weighted}
    for name, policy in rules.items():
        assert policy(request_of(), snapshot_of([0, 0])).reason == name
