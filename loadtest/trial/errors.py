"""The errors of a trial.

ClusterError
└── TrialError              the trial cannot go on; the message says why
RequestFailedError          one request was not answered to its end
"""

from cluster.errors import ClusterError


class TrialError(ClusterError):
    """The trial cannot go on: nothing answers, or what it needs has ended."""


class RequestFailedError(Exception):
    """One request was not answered to its end; with the server's message where there is one."""
