"""A simulated engine's ``/metrics``, with vLLM's names."""

from workers.sim.core import EngineCore


def render(core: EngineCore) -> str:
    """The Prometheus text of one engine."""
    settings, scheduler, counters = core.settings, core.scheduler, core.scheduler.counters
    labels = f'{{engine="0",model_name="{settings.model_name}"}}'
    cache = f'{{block_size="{settings.block_size}",engine="0",num_gpu_blocks="{settings.num_blocks}"}}'
    samples = (
        ("vllm:num_requests_running", "gauge", labels, len(scheduler.running)),
        ("vllm:num_requests_waiting", "gauge", labels, len(scheduler.waiting)),
        ("vllm:kv_cache_usage_perc", "gauge", labels, core.blocks.usage),
        ("vllm:prefix_cache_queries_total", "counter", labels, counters.queried_tokens),
        ("vllm:prefix_cache_hits_total", "counter", labels, counters.hit_tokens),
        ("vllm:num_preemptions_total", "counter", labels, counters.preemptions),
        ("vllm:prompt_tokens_total", "counter", labels, counters.queried_tokens),
        ("vllm:generation_tokens_total", "counter", labels, counters.generated_tokens),
        ("vllm:cache_config_info", "gauge", cache, 1),
        ("process_start_time_seconds", "gauge", "", core.started_at),
    )
    return "".join(
        f"# TYPE {name.removesuffix('_total')} {kind}\n{name}{label} {float(value)}\n"
        for name, kind, label, value in samples
    )
