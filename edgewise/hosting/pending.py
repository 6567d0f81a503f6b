"""A request as its host sees it."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from edgewise.runtime.engine import Request, Token

OnToken = Callable[[Token], None]


@dataclass(slots=True)
class Pending:
    """A request on its way since it came, that waits for devices for so many seconds: `number` is
    the engine's, None before it has one."""

    request: Request
    on_token: OnToken
    since: float
    seconds: float
    number: int | None = None
    cancelled: bool = False

    def until(self, missing_since: float) -> float:
        """When it has waited long enough for devices; a deadline counts from when it came."""
        longest = self.since + (self.request.deadline or inf)
        return min(max(self.since, missing_since) + self.seconds, longest)
