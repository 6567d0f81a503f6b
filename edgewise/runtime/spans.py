"""Parts of steps on the wire: a row on its way, and what comes back of it."""

import msgspec

from edgewise.models.cache import Segment
from edgewise.runtime.batches import Wish
from edgewise.runtime.sampling import Sampling
from edgewise.runtime.scores import Score


class Span(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A batch's row without its tokens (batches.Row)."""

    request: int
    start: int
    length: int
    sampling: Sampling | None = None
    prefix: tuple[int, int] | None = None
    wish: Wish | None = None
    adapter: int = 0

    @property
    def segment(self) -> Segment:
        """As a shard takes it."""
        return Segment(self.request, self.start, self.length, self.adapter)


class Sampled(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request's next token, with its score where that was asked for; or, with `error`, why it has
    none."""

    request: int
    token: int
    error: str = ""
    score: Score | None = None
