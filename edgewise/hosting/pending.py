"""A request as its host sees it."""

from collections.abc import Callable
from dataclasses import dataclass

from edgewise.runtime.engine import Request, Token

OnToken = Callable[[Token], None]


@dataclass(slots=True)
class Pending:
    """A request on its way since it came: `number` is the engine's, None before it has one."""

    request: Request
    on_token: OnToken
    since: float
    until: float
    number: int | None = None
    cancelled: bool = False
