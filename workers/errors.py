"""The errors of this package, each a direct kind of `WorkerError`."""


class WorkerError(Exception):
    """Base of every error that `workers` raises on purpose."""


class EngineUnavailableError(WorkerError):
    """The engine does not answer, or says that it is not healthy."""

    def __init__(self, message: str, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused
        """Nobody listens at its address: the process is gone, and not just slow."""


class EngineProtocolError(WorkerError):
    """The engine answers something that cannot be understood."""


class EventFormatError(WorkerError):
    """A batch of KV events cannot be decoded."""


class MirrorOverflowError(WorkerError):
    """The engine announces more blocks than it can have: its events cannot be believed."""


class IncarnationOverError(WorkerError):
    """The engine process that an agent followed is gone, or no longer the same."""


class EngineStartError(WorkerError):
    """The engine's process does not start or does not become healthy; the message holds its last lines."""


class UnsettledError(WorkerError):
    """Mirror and Redis change too quickly to be compared, or Redis does not answer."""
