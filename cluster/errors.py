"""The errors of this package."""


class ClusterError(Exception):
    """Base of every error that `cluster` raises on purpose."""


class StoreUnavailableError(ClusterError):
    """Redis cannot be reached or does not answer in time."""


class StoreRefusesError(StoreUnavailableError):
    """Redis refuses a command: it is full, read-only, or does not allow it."""


class StoreConflictError(ClusterError):
    """What is to be written contradicts what is there, or is more than there may be."""


class FencedError(ClusterError):
    """A newer incarnation of this replica has taken over its keys; this one must stop writing."""


class LeaseLostError(ClusterError):
    """Redis holds no lease for this replica: it expired, or Redis lost its data."""


class SequenceGapError(ClusterError):
    """Redis has not seen the batch that comes before this one."""


class TokenizerUnavailableError(ClusterError):
    """No tokenizer can be loaded for a model."""


class PromptError(ClusterError):
    """The messages of a request cannot be rendered with the model's chat template."""


class StartUpError(ClusterError):
    """The system cannot start. The message names the cause and what to do about it."""
