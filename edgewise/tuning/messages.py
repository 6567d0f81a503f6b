"""What is said between whoever adapts a model and the devices that hold its windows."""

from edgewise.adapters import AdapterConfig
from edgewise.runtime.messages import Message
from edgewise.tuning.judging import ExitScore
from edgewise.tuning.lessons import Lesson
from edgewise.tuning.model import Window
from edgewise.tuning.recipe import Recipe
from edgewise.tuning.weights import Weights


class Rehearse(Message, frozen=True):
    """Time a step of one window of a model of this shape (ModelShape, as JSON), by weights and
    states that are drawn, and what a plain pass takes."""

    shape: str
    scheme: str
    recipe: Recipe
    window: Window
    lessons: tuple[Lesson, ...]


class Rehearsed(Message, frozen=True):
    """Seconds without and with learning; bytes of the window's weights, of the head's, of what is
    learned with all that the optimizer remembers, and of what is kept for the backward pass."""

    plain_seconds: float
    step_seconds: float
    window_bytes: int
    head_bytes: int
    learned_bytes: int
    kept_bytes: int


class Hold(Message, frozen=True):
    """Hold these of all windows from now on, one behind the other; what comes out of the last goes
    on to the device `next`, "" where there is none. `epoch` numbers places; leftovers of earlier
    ones are told by it."""

    epoch: int
    weights: Weights
    recipe: Recipe
    windows: tuple[Window, ...]
    mine: tuple[int, ...]
    next: str


class Held(Message, frozen=True):
    """Done."""

    epoch: int


class Learn(Message, frozen=True):
    """A batch. Windows that are to learn from it, the first of them in step `step`, do; `judged`:
    they say what they know of it instead. Tensor: what comes out of the block before the first one
    here, float32 [B, T, H]; none for the device that holds the first."""

    is_traffic = True

    epoch: int
    step: int
    windows: tuple[int, ...]
    lessons: tuple[Lesson, ...]
    judged: bool = False


class Learned(Message, frozen=True):
    """A window has. So many bytes of numbers went to other devices meanwhile, and came from them,
    where the window's blocks are elsewhere."""

    epoch: int
    step: int
    window: int
    loss: float
    tokens: int
    crossed_bytes: int = 0


class Judged(Message, frozen=True):
    """What a window's exit says of batch `step`."""

    epoch: int
    step: int
    window: int
    score: ExitScore


class Give(Message, frozen=True):
    """Say all that changes as the windows here learn: `Given` for each, then `GaveAll`."""


class Given(Message, frozen=True):
    """Tensor: of that name, to whoever asked, or to the device that shall be it from now on."""

    name: str


class GaveAll(Message, frozen=True):
    """That was all of it. A device answers with the same."""


# Of a training whose M stay on the source (private_source.py, private_blocks.py).


class HoldMiddles(Message, frozen=True):
    """Hold the embedding, the head and every M from now on; blocks are elsewhere, the first of them
    on one device and the last on another. `epoch` as above."""

    ends_steps = True

    epoch: int
    weights: Weights
    recipe: Recipe
    first: str
    last: str


class HoldBlocks(Message, frozen=True):
    """Hold blocks [first, end) from now on, with what is frozen of their adapters. States come from
    one device and go on to another; the source, which has every M, is both at the ends."""

    ends_steps = True

    epoch: int
    weights: Weights
    adapter: AdapterConfig
    source: str
    first: int
    end: int
    previous: str
    next: str


class Through(Message, frozen=True):
    """A batch is to pass through blocks; `learns`: gradients will come back. Tensor: what comes out
    of the block before them, float32 [B, T, H]."""

    is_traffic = True

    epoch: int
    number: int
    learns: bool


class Back(Message, frozen=True):
    """The same batch's gradients. Tensor: of what the last block here has made, float32 [B, T, H];
    to the source, none: that was all."""

    is_traffic = True

    epoch: int
    number: int


class Mix(Message, frozen=True):
    """To the source, of a block's matrix in batch `number`: D x, float32 [B, T, r for each adapted
    part], and the same message comes back with M D x. `back`: g, the gradient of M D x, and M^T g
    comes back; `learns`: that will be asked."""

    is_traffic = True

    epoch: int
    number: int
    block: int
    matrix: str
    learns: bool
    back: bool = False
