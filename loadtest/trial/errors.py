"""The error of a trial.

ClusterError
└── TrialError              the trial cannot go on; the message says why
"""

from cluster.errors import ClusterError


class TrialError(ClusterError):
    """The trial cannot go on: nothing answers, or what it needs has ended."""
