"""A cluster that others join: this machine's device, and agents on theirs."""

from edgewise.clusters import Cluster, Device
from edgewise.runtime.launchers.agents import AgentLauncher
from edgewise.runtime.launchers.invitation import Invitation
from edgewise.runtime.launchers.local import LocalLauncher
from edgewise.runtime.messages import EVERYWHERE
from edgewise.runtime.settings import Settings
from edgewise.runtime.transport.zeromq import Keys, ZeroMQ
from edgewise.runtime.worker import COORDINATOR
from edgewise.runtime.workers import Workers


def start_live(source: Device, host: str, port: int) -> tuple[Workers, AgentLauncher, Invitation]:
    """Start this machine's worker, listen for agents on `host` ("0.0.0.0": everywhere) at `port`
    (0: any), all encrypted with keys made now."""
    keys = Keys.make()
    transport = ZeroMQ(COORDINATOR, f"tcp://{host}:*", keys)
    workers = Workers(Cluster((source,), (), source.name), transport)
    workers.at_end(transport.close)
    invitation = Invitation.to(keys.public)
    address = f"tcp://{host}:{port or '*'}"
    try:
        agents = AgentLauncher(address, keys, invitation, transport.peer, transport.post)
        workers.at_end(agents.close)
        local, own = LocalLauncher(transport.post), Keys.make()
        here = transport.peer.at("127.0.0.1" if host == EVERYWHERE else host)
        bind = f"tcp://{host}:*"
        workers.start(local, [Settings(source, bind, here, own.public, own.secret)])
    except BaseException:
        workers.close()
        raise
    return workers, agents, invitation
