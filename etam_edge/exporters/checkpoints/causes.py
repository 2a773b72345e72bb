"""The system's reason behind an exception of a library."""

from __future__ import annotations

from collections.abc import Iterator

from etam_edge.errors import shown


def causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and the exceptions that led to it, the first cause last."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def reason(error: BaseException) -> str:
    """The system's text for the first cause, such as "Connection refused"; otherwise the first line of the exception.

    At most 200 characters.
    """
    texts = [cause.strerror for cause in causes(error) if isinstance(cause, OSError) and cause.strerror]
    lines = (texts[-1] if texts else str(error)).strip().splitlines()
    if not lines:
        return type(error).__name__
    return lines[0][:200] if lines[0].isprintable() else shown(lines[0])
