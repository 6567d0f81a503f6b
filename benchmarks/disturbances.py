"""What is done to the workers of a running engine by `chaos.py` and `arrivals.py`, and what may be
left behind of one."""

import contextlib
import ctypes
import os
import random
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import psutil
from places import Place

from edgewise.plans import Plan, Stage
from edgewise.runtime.coordinator.coordinator import Coordinator

STALL_SECONDS = 0.2, 2.2  # shorter than the silence after which a device is taken for lost
CUT_SECONDS = 0.05, 1.0
PIDFD_GETFD = 438  # Linux, 5.6 and later
PR_SET_CHILD_SUBREAPER = 36
END_SECONDS = 5.0  # for processes whose parents were killed


@dataclass(slots=True)
class Disturbance:
    """What happened when, to whom; `epoch` is the number of the plan that ran then."""

    what: str
    devices: tuple[str, ...]
    at: float
    epoch: int


def disturb(engine: Coordinator, place: Place, what: str, rng: random.Random) -> Disturbance:
    """Do it. Where no further device can be spared, the source's worker is the one to die; where
    none is left to join, another plan is applied."""
    source = engine.workers.cluster.source
    others = [name for name in engine.workers.names if name != source]
    rng.shuffle(others)
    spare = others[1:]  # no device holds the model alone
    victims = {
        "kill": spare[:1] or [source],
        "kill source": [source],
        "kill two": spare[:2] if len(spare) > 1 and rng.random() < 0.5 else [source, *spare[:1]],
        "hang": spare[:1] or [source],
        "stall": [rng.choice(engine.workers.names)],
        "cut": [rng.choice(engine.workers.names)],
        "join": [],
        "apply": [],
    }[what]
    what = "kill source" if what == "kill" and victims == [source] else what
    pids = [pid for name in victims if (pid := place.process_id(name)) is not None]
    nobody = bool(victims) and not pids  # they died of the last one, and nobody knows yet
    what = "apply" if nobody or (what == "join" and not place.join()) else what
    done = Disturbance(what, tuple(victims), time.monotonic(), engine.workers.epoch)
    if what == "apply":
        engine.apply(random_plan(engine.workers.names, engine.plan, rng))
    elif what == "cut":
        end = time.monotonic() + rng.uniform(*CUT_SECONDS)
        threading.Thread(target=_cut, args=(pids[0], end), daemon=True).start()
    else:
        stopping = what in ("hang", "stall")
        for pid in pids:
            os.kill(pid, signal.SIGSTOP if stopping else signal.SIGKILL)
        if what == "stall":
            process, seconds = psutil.Process(pids[0]), rng.uniform(*STALL_SECONDS)
            _later(seconds, process.resume)
    return done


def random_plan(names: tuple[str, ...], like: Plan, rng: random.Random) -> Plan:
    """The same layers in the same schemes on all devices, the first of them first, the order of the
    others and the cuts drawn by lot; the first device may come twice. About even: no device holds
    all."""
    first, *others = names
    rng.shuffle(others)
    twice = bool(others) and rng.random() < 0.3
    order = [first, *others, *([first] if twice else [])]
    middle = like.num_layers / len(names)
    ends = [i + 1 - 0.5 * twice for i in range(len(order) - 1)]
    cuts = [round(middle * (end + rng.uniform(-0.2, 0.2))) for end in ends]
    stages = tuple(
        Stage(name, a, b, like.schemes[a:b])
        for name, (a, b) in zip(order, pairwise([0, *cuts, like.num_layers]), strict=True)
    )
    return replace(like, stages=stages)


def _later(seconds: float, act: Callable[[], None]) -> None:
    def do() -> None:
        with contextlib.suppress(psutil.NoSuchProcess):  # it died meanwhile
            act()

    timer = threading.Timer(seconds, do)
    timer.daemon = True
    timer.start()


def _cut(victim: int, until: float) -> None:
    """Shut the victim's connections with all others down, again and again."""
    while time.monotonic() < until:
        for number in _sockets(victim):
            _shut(victim, number)
        time.sleep(0.02)


def _sockets(pid: int) -> list[int]:
    try:
        entries = list(Path(f"/proc/{pid}/fd").iterdir())
        return [int(x.name) for x in entries if os.readlink(x).startswith("socket:")]
    except OSError:
        return []  # it, or one of its files, is gone


def _shut(pid: int, number: int) -> None:
    """End one connection of a process."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    descriptor = ctypes.CDLL(None).syscall(PIDFD_GETFD, pidfd, number, 0)
    os.close(pidfd)
    if descriptor < 0:
        return
    with socket.socket(fileno=descriptor) as end, contextlib.suppress(OSError):
        end.getpeername()  # fails where it listens, or is not connected any more
        end.shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True, slots=True)
class Held:
    """What this process holds of the system. `own_bytes` are anonymous ones: how many of a
    library's are its own depends on who else has it loaded."""

    children: int
    descriptors: tuple[str, ...]
    threads: tuple[str, ...]
    files: frozenset[str]
    own_bytes: int

    @staticmethod
    def now() -> "Held":
        """Once those that end just now have ended."""
        deadline = time.monotonic() + END_SECONDS
        while (ours := _ours()) and time.monotonic() < deadline:
            time.sleep(0.05)
        files = [*Path(tempfile.gettempdir()).iterdir(), *Path("/dev/shm").iterdir()]
        return Held(
            len(ours),
            _descriptors(),
            tuple(x.read_text().strip() for x in Path("/proc/self/task").glob("*/comm")),
            frozenset(map(str, files)),
            _anonymous_bytes(),
        )

    def left_since(self, before: "Held") -> list[str]:
        """What there is more of than before, memory apart."""
        more = [f"{self.children} processes"] if self.children > before.children else []
        for kind in ("descriptors", "threads"):
            now, then = getattr(self, kind), getattr(before, kind)
            if len(now) > len(then):
                others = ", ".join(sorted((Counter(now) - Counter(then)).elements()))
                more.append(f"{len(now) - len(then)} of the {kind} {others}")
        return more + sorted(self.files - before.files)


def _descriptors() -> tuple[str, ...]:
    """What each one of this process is; sockets by their ends, where they have them."""
    there = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # that of this folder itself
            what = os.readlink(entry)
            there.append(_ends(int(entry.name)) if what.startswith("socket:") else what)
    return tuple(there)


def _ends(descriptor: int) -> str:
    with socket.socket(fileno=os.dup(descriptor)) as end:
        text = f"{end.family.name} {end.type.name}"
        for name in (end.getsockname, end.getpeername):
            with contextlib.suppress(OSError):
                text += f" {name()}"
        return text


def adopt_orphans() -> None:
    """From now on processes whose parents die are this one's children, and are seen."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _ours() -> list[psutil.Process]:
    """Those that descend from this process and run our code, which Ray's own do not."""
    return [x for x in psutil.Process().children(recursive=True) if _is_ours(x)]


def _is_ours(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return any("edgewise" in part or "_Starter" in part for part in process.cmdline())
    return False


def _anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) * 1024
