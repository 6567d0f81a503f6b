"""How many answers may be asked for at a time."""

from collections.abc import Iterator
from contextlib import contextmanager

from edgewise.serving.errors import Refusal

MOST_ANSWERS = 256  # that run or wait


class Gate:
    """Of one server. Closed, it lets nothing more in: what is in is answered."""

    def __init__(self, most: int = MOST_ANSWERS) -> None:
        self._most, self._asked, self._closed = most, 0, False

    def check(self, answers: int) -> None:
        """Whether one call may ever ask for so many. Raises Refusal."""
        if answers > self._most:
            raise Refusal(
                400, f"{answers} answers in one call are too many: at most {self._most} may be"
            )

    @contextmanager
    def of(self, answers: int) -> Iterator[None]:
        """While so many are asked for. Raises Refusal."""
        if self._closed:
            raise Refusal(503, "this server is about to end")
        if self._asked + answers > self._most:
            raise Refusal(
                429,
                f"{self._asked} answers are under way, and {self._most} may be; come back later",
                "rate_limit_exceeded",
            )
        self._asked += answers
        try:
            yield
        finally:
            self._asked -= answers

    def close(self) -> None:
        self._closed = True
