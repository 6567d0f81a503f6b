"""What happens to requests and plans, told to whoever listens. `at` is the coordinator's clock,
`time.monotonic` there; no other machine's clock is read."""

from collections.abc import Callable
from dataclasses import dataclass

from edgewise.plans import Plan
from edgewise.runtime.batches import Batch
from edgewise.runtime.engine import Token


@dataclass(frozen=True, slots=True)
class Submitted:
    at: float
    request: int
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Entered:
    """A batch was sent into the pipeline."""

    at: float
    step: int
    batch: Batch


@dataclass(frozen=True, slots=True)
class Returned:
    """It is back, after so many seconds of computing on each stage; none where it failed. `asked`:
    devices that asked the source for M D x, and bytes there and back (messages.Step)."""

    at: float
    entered: Entered
    seconds: tuple[float, ...]
    asked: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Nobody waits for a request any more, if it is still there."""

    at: float
    request: int


@dataclass(frozen=True, slots=True)
class Lost:
    """A device is gone, or cannot do its part: `why` names it. What goes on, goes on without."""

    at: float
    device: str
    why: str


@dataclass(frozen=True, slots=True)
class PlanInUse:
    """From now on this plan runs; what was in flight is lost. `why` and the `seconds` that finding
    and loading it took: of a plan that replaced another one."""

    at: float
    plan: Plan
    source: str
    why: str = ""
    seconds: float = 0.0


Event = Submitted | Entered | Returned | Token | Cancelled | Lost | PlanInUse
Listener = Callable[[Event], None]
