"""One router of a deployment, as far as its history goes."""

from cluster.protocol.wire import Keys
from router.history.history import History
from router.history.history_sharing import HistorySharing
from router.history.history_store import HistoryStore
from router.history.savings import Savings
from tests.router.finished_requests import finished


class Party:
    """One router's history, and what shares it."""

    def __init__(self, redis, router_id, clock):
        self.redis = redis  # whoever uses its commands holds the client
        self.keys = Keys("test")
        self.store = HistoryStore(redis, self.keys, router_id)
        self.savings = Savings(self.store)
        self.history = History(self.savings, clock)
        self.sharing = HistorySharing(self.history, self.savings, self.store, router_id, clock)
        self._clock = clock

    def serve(self, requests=1, replica="a", **changes):
        """Finish some requests now."""
        for _ in range(requests):
            self.history.add(finished(replica, **changes), 0.1, self._clock.now)

    @property
    def requests(self):
        """Of the whole fleet in the last hour."""
        return self.history.fleet_rates(3600).requests
