"""The small real model, as ``warmroute serve`` unpacks it."""

from pathlib import Path

from cluster.serve.model_files import ensure_demo_model

ROOT = Path(__file__).resolve().parents[1]


def small_model(*, weights: bool = True) -> Path:
    """Its folder, made first if it is not there yet; without ``weights`` the tokenizer is enough."""
    return ensure_demo_model(ROOT / ".warmroute", lambda _progress: None, weights=weights)
