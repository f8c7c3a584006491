"""The errors of this package.

ClusterError
├── StoreUnavailableError       Redis cannot be reached or does not answer in time
│   └── StoreRefusesError       Redis answers that it will not: full, read-only, not allowed
├── StoreConflictError          what is to be written contradicts what is there
├── FencedError                 a newer incarnation of this replica has taken over
├── LeaseLostError              Redis no longer knows this replica's lease
├── SequenceGapError            Redis has not seen the batch before this one
├── TokenizerUnavailableError   no tokenizer can be loaded for a model
├── PromptError                 the messages cannot be rendered with the model's template
└── StartUpError                the system cannot start; the message says what to do
"""


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
