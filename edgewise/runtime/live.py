"""A cluster that others join: this machine's device, and agents or Ray nodes on theirs."""

from collections.abc import Callable
from typing import TypeVar

from edgewise.clusters import Cluster, Device
from edgewise.errors import InputError
from edgewise.runtime.coordinator.workers import Workers
from edgewise.runtime.launchers import Launcher
from edgewise.runtime.launchers.agents import AgentLauncher
from edgewise.runtime.launchers.invitation import Invitation
from edgewise.runtime.launchers.kept_keys import Identity, make_identity
from edgewise.runtime.launchers.local import LocalLauncher
from edgewise.runtime.messages import COORDINATOR, EVERYWHERE, WorkerProgram
from edgewise.runtime.settings import Settings
from edgewise.runtime.transport.zeromq import Keys, ZeroMQ

Others = TypeVar("Others", bound=Launcher)


def start_live(
    source: Device,
    host: str,
    port: int,
    identity: Identity | None = None,
    program: WorkerProgram = WorkerProgram.SERVE,
) -> tuple[Workers, AgentLauncher, Invitation]:
    """Start this machine's worker, listen for agents on `host` ("0.0.0.0": everywhere) at `port`
    (0: any), all encrypted, known to them by `identity`, else by keys made now. Workers run a
    `program`, theirs too."""
    keys, invitation = identity or make_identity()
    address = f"tcp://{host}:{port or '*'}"

    def listen(inbox: ZeroMQ) -> AgentLauncher:
        ours = inbox.peer, inbox.post, source.name
        return AgentLauncher(address, keys, invitation, *ours, program)

    workers, agents = _start(source, host, keys, listen, program=program)
    return workers, agents, invitation


def start_on_ray(
    source: Device, host: str, address: str | None = None
) -> tuple[Workers, Launcher, str]:
    """Start this machine's worker, and take the nodes of its Ray cluster in: of the one at
    `address`, else as `launchers.ray.connect` finds or starts it. Returns too what makes another
    machine a node. Raises InputError where Ray is missing."""
    try:
        from edgewise.runtime.launchers.ray import RayLauncher, connect, disconnect
    except ImportError:
        raise InputError("Ray is missing: pip install 'edgewise[cluster]'") from None
    line = connect(host, address)

    def watch(inbox: ZeroMQ) -> RayLauncher:
        return RayLauncher(inbox.post, source.name)

    workers, nodes = _start(source, EVERYWHERE, Keys.make(), watch, disconnect)
    return workers, nodes, line


def _start(
    source: Device,
    host: str,
    keys: Keys,
    open_launcher: Callable[[ZeroMQ], Others],
    at_end: Callable[[], None] = lambda: None,
    program: WorkerProgram = WorkerProgram.SERVE,
) -> tuple[Workers, Others]:
    """This machine's worker and the launcher of all others', under one inbox on `host`."""
    transport = ZeroMQ(COORDINATOR, f"tcp://{host}:*", keys)
    workers = Workers(Cluster((source,), (), source.name), transport)
    for close in (at_end, transport.close):
        workers.at_end(close)
    try:
        others = open_launcher(transport)
        workers.at_end(others.close)
        own = Keys.make()
        here = transport.peer.at("127.0.0.1" if host == EVERYWHERE else host)
        settings = Settings(source, f"tcp://{host}:*", here, own.public, own.secret)
        workers.start(LocalLauncher(transport.post, program), [settings])
    except BaseException:
        workers.close()
        raise
    return workers, others
