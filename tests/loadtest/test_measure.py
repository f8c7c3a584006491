"""Percentiles, slopes, and the latencies of batches that a follower saw."""

import numpy as np
import pytest

from loadtest.harness.block_engines import BlockCache
from loadtest.harness.index_follower import Seen
from loadtest.harness.measure import percentile, slope


def test_percentiles_lie_between_values():
    """By linear interpolation, whatever the order."""
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([1.0, 2.0], 75) == 1.75
    assert percentile([7.0], 99) == 7.0


def test_a_straight_line_has_its_slope_and_no_error():
    """Whatever its height."""
    rise, error = slope([0.0, 1.0, 2.0, 3.0], [5.0, 7.0, 9.0, 11.0])
    assert rise == pytest.approx(2.0)
    assert error == pytest.approx(0.0)


def test_scattered_values_give_an_error():
    """The textbook's: residuals 0.2, -0.1, -0.4, 0.3 over places with a spread of 5."""
    rise, error = slope([0.0, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 5.0])
    assert rise == pytest.approx(1.3)
    assert error == pytest.approx((0.3 / 2 / 5) ** 0.5)


def test_latencies_end_when_the_last_block_is_routable():
    """The first time counts when a key comes twice; a batch that was never seen has no latency."""
    cache = BlockCache(0, 1000, 5)
    seen_batch, unseen = cache.advance()[0], cache.advance()[0]
    seen_batch.sent = unseen.sent = 100.0
    keys = seen_batch.block_keys()
    seen = Seen(
        times=np.array([100.5] * 5 + [109.0] * 5),
        keys=np.array(keys * 2, dtype=np.uint64),
        resynchronisations=0,
        owned={},
    )
    assert seen.latencies([seen_batch, unseen]) == pytest.approx([0.5])
