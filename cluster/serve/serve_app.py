"""The Ray Serve applications: replicas of an engine, and the router in front of them.

Part of the composition root: it may import `router` and `workers`. The two are applications of their own,
so that one can be scaled, replaced or restarted without the other.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from router.settings import RouterSettings
    from workers.replica import ReplicaOptions

REPLICAS_APP = "warmroute-replicas"
ROUTER_APP = "warmroute-router"

HEALTH_CHECK_SECONDS = 2.0


def replicas_app(options: "ReplicaOptions", num_replicas: int, num_gpus: float) -> Any:
    """The application that runs engines, one per Serve replica."""
    from ray import serve

    from workers.replica import Replica

    deployment = serve.deployment(
        Replica,
        name="Replica",
        num_replicas=num_replicas,
        ray_actor_options={"num_cpus": 1, "num_gpus": num_gpus},
        max_ongoing_requests=16,  # requests bypass Serve; these are health checks and admin calls
        health_check_period_s=HEALTH_CHECK_SECONDS,
        health_check_timeout_s=30.0,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=options.shutdown_seconds,
    )
    return deployment.bind(options)


def router_app(settings: "RouterSettings") -> Any:
    """The application that runs one router, on the port of its settings."""
    from ray import serve

    from router.server import Router

    deployment = serve.deployment(
        Router,
        name="Router",
        num_replicas=1,
        ray_actor_options={"num_cpus": 1},
        health_check_period_s=HEALTH_CHECK_SECONDS,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=settings.stop_seconds,
    )
    return deployment.bind(settings)
