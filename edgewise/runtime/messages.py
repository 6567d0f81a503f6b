"""What participants say to each other, one frozen class per message. A message may have one tensor
beside it: its docstring says which.

Encoded as MessagePack with the class's name as tag; decoding checks every field (msgspec), so a
handler never sees a malformed message.
"""

from enum import StrEnum
from typing import ClassVar

import msgspec

from edgewise.adapters.private import PrivateAdapter
from edgewise.clusters import Device
from edgewise.models.layer_files import LayerFile
from edgewise.plans import Stage
from edgewise.runtime.scores import PromptScores
from edgewise.runtime.spans import Sampled, Span
from edgewise.specs import Workload

COORDINATOR = ""  # no device can be called that
EVERYWHERE = "0.0.0.0"


class Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Base of them all. `is_traffic`: it travels between devices once a plan runs, or measures how
    that will be; others only set up, and do not wait for emulated links. `ends_steps`: behind it,
    no step of before is waited for by anybody."""

    is_traffic: ClassVar[bool] = False
    ends_steps: ClassVar[bool] = False


class Peer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a participant's inbox is, and the public key that it proves to have (z85); "" where
    sockets are this user's alone (ipc)."""

    address: str
    key: str = ""

    def at(self, host: str) -> "Peer":
        """The same where it is reached on that host: an inbox that listens everywhere says 0.0.0.0
        of itself."""
        return Peer(self.address.replace(EVERYWHERE, host), self.key) if host else self


class WorkerProgram(StrEnum):
    """What a device's workers run: a module of this package, and nothing else, whoever asks."""

    SERVE = "edgewise.runtime.worker"
    TUNE = "edgewise.tuning.worker"


# Between an agent and the coordinator (launchers/).


class JoinRequest(Message, frozen=True):
    """An agent asks to be let in, with its device. `host` is where others reach its machine, "" for
    where the connection comes from."""

    secret: bytes
    device: Device
    host: str = ""


class Welcome(Message, frozen=True):
    """The agent is in. The coordinator's inbox is at this port of the machine that the agent
    connected to, and has this key; its workers are to run this program."""

    port: int
    key: str
    program: WorkerProgram = WorkerProgram.SERVE


class Refused(Message, frozen=True):
    """The agent is not let in, or not any more; where it may ask again, it should."""

    why: str
    again: bool


class StartWorker(Message, frozen=True):
    """Start the device's worker."""


class Starting(Message, frozen=True):
    """The device's worker is being started; this will be its public key."""

    key: str


class EndWorker(Message, frozen=True):
    """End the device's worker at once."""


class Joined(Message, frozen=True):
    """A device may be used from now on; AgentLauncher says so to the coordinator."""

    device: Device
    host: str


class Wake(Message, frozen=True):
    """Posted to oneself: there is something to see to."""


# Life of a worker.


class Ready(Message, frozen=True):
    """A worker has started, and its inbox is here."""

    peer: Peer


class Peers(Message, frozen=True):
    """Everybody a worker may hear from or send to, by name; it forgets all others."""

    peers: dict[str, Peer]


class Introduced(Message, frozen=True):
    """A worker knows whom it may hear from; others may talk to it now."""


class Beat(Message, frozen=True):
    """Alive, sent every second by a thread of its own. `busy_seconds`: how long what a worker does
    now has been going on, 0 for nothing."""

    busy_seconds: float


class Ended(Message, frozen=True):
    """A participant's process is gone: how it ended, and the last line that it wrote."""

    ends_steps = True

    name: str
    how: str
    last_line: str = ""


class Stop(Message, frozen=True):
    """End."""

    ends_steps = True


class Failed(Message, frozen=True):
    """A handler raised. `error` names one of our own classes, or "" with a trace as text. `device`
    is the one to blame, not always the sender. `step` is its number where a step failed."""

    epoch: int
    error: str
    text: str
    device: str
    step: int | None = None


# Plans.


class Load(Message, frozen=True):
    """Hold these stages from now on. What is held already in the same scheme stays. `epoch` numbers
    plans; leftovers of earlier ones are told by it. For a worker that has no copy of the model,
    `shape` says what it is (ModelShape, as JSON), and `files` are its own layers. `private`: what
    blocks add, with M's folder for the source alone."""

    ends_steps = True

    epoch: int
    model: str
    stages: tuple[Stage, ...]
    rounding: str | None
    workload: Workload
    shape: str = ""
    files: tuple[LayerFile, ...] = ()
    private: PrivateAdapter | None = None


class LayerLoaded(Message, frozen=True):
    epoch: int
    layer: int


class Loaded(Message, frozen=True):
    """All stages are in memory, weights and cache taking so many bytes."""

    epoch: int
    size: int


class Fetch(Message, frozen=True):
    """Asks for a piece of a file, from a byte on."""

    key: str
    offset: int


class Piece(Message, frozen=True):
    """A piece of a file. Tensor: its bytes (uint8), compressed where `packed` (pieces.py)."""

    key: str
    offset: int
    packed: bool


# Steps.


class Step(Message, frozen=True):
    """A batch at a stage. Tensor: token ids (int64 [tokens]) for stage 0, hidden states [tokens, H]
    for others, row after row. `seconds`: what each stage before took; `failed`: requests that were
    in the batch, and cannot be computed; `asked`: of devices that asked the source for M D x, how
    many bytes they sent there and got."""

    is_traffic = True

    epoch: int
    number: int
    stage: int
    spans: tuple[Span, ...]
    dropped: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()
    failed: tuple[Sampled, ...] = ()
    asked: tuple[tuple[str, int, int], ...] = ()


class Tokens(Message, frozen=True):
    """A batch is through: a token for every row that samples. Its place in the pipeline is free."""

    is_traffic = True

    epoch: int
    number: int
    tokens: tuple[Sampled, ...]
    seconds: tuple[float, ...]
    prompts: tuple[PromptScores, ...] = ()
    asked: tuple[tuple[str, int, int], ...] = ()


# Measuring.


class Describe(Message, frozen=True):
    """What machine is this, and what memory has it?"""


class Described(Message, frozen=True):
    """`code` names what is timed there: version, instruction set, library. The disk's rate is 0
    where none is for layers."""

    machine: str
    free_bytes: int
    process_bytes: int
    code: str
    disk_bytes_per_second: float = 0.0


class Probe(Message, frozen=True):
    """Time a round trip to `target`, `size` bytes on the way there."""

    target: str
    size: int


class Probed(Message, frozen=True):
    seconds: float


class Echo(Message, frozen=True):
    """To be answered at once, or as soon as the caches are `cold`. Tensor: any bytes."""

    is_traffic = True

    cold: bool = False


class Echoed(Message, frozen=True):
    is_traffic = True


class Ping(Message, frozen=True):
    pass


class Pong(Message, frozen=True):
    pass
