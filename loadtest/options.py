"""What several commands do with their options."""

from pathlib import Path

from cluster.errors import StartUpError


def parts_of(value: object) -> object:
    """The parts of a text that are separated by commas; what is no text, as it is."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def make_directory(directory: Path) -> Path:
    """Create the directory of a report. Raises `StartUpError`."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartUpError(f"--output {directory}: {error.strerror}") from error
    return directory
