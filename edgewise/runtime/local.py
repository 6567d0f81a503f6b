"""The devices of a cluster as processes on this machine, their links emulated."""

import shutil
from collections.abc import Callable

from edgewise.adapters.private import PrivateAdapter
from edgewise.clusters import Cluster, Link
from edgewise.plans import Plan
from edgewise.runtime.coordinator.checks import check_route
from edgewise.runtime.coordinator.coordinator import Coordinator, Replan
from edgewise.runtime.coordinator.workers import Workers
from edgewise.runtime.launchers.local import LocalLauncher
from edgewise.runtime.messages import COORDINATOR, WorkerProgram
from edgewise.runtime.processors import check_processors
from edgewise.runtime.settings import Settings
from edgewise.runtime.sockets import socket_folder
from edgewise.runtime.transport import Transport
from edgewise.runtime.transport.emulation import Emulated
from edgewise.runtime.transport.zeromq import ZeroMQ
from edgewise.specs import ModelSpec, Workload


def start_local(cluster: Cluster, program: str = WorkerProgram.SERVE) -> Workers:
    """One worker process per device, joined by Unix sockets in a private folder.

    The coordinator is on the source: what it sends and receives travels the source's links. Raises
    ClusterError before anything starts, and DeviceError.
    """
    check_processors(cluster)
    folder = socket_folder()
    into_source = links_into(cluster, cluster.source)
    into_source.pop(cluster.source, None)
    transport: Transport = ZeroMQ(COORDINATOR, f"ipc://{folder / 'coordinator'}")
    if into_source:
        transport = Emulated(transport, into_source)
    workers, launcher = Workers(cluster, transport), LocalLauncher(transport.post, program)
    workers.at_end(lambda: shutil.rmtree(folder, ignore_errors=True))
    workers.at_end(transport.close)
    settings = []
    for number, device in enumerate(cluster.devices):
        links = links_into(cluster, device.name)
        if cluster.source in links:  # what the coordinator sends comes from the source
            links[COORDINATOR] = links[cluster.source]
        bind, turns = f"ipc://{folder / str(number)}", str(folder / "turns")
        settings.append(Settings(device, bind, transport.peer, links=links, turns=turns))
    try:
        workers.start(launcher, settings)
    except BaseException:
        workers.close()
        raise
    return workers


def links_into(cluster: Cluster, target: str) -> dict[str, Link]:
    return {link.source: link for link in cluster.all_links() if link.target == target}


def open_engine(
    model: str,
    plan: Plan,
    cluster: Cluster,
    workload: Workload,
    *,
    spec: ModelSpec,
    private: PrivateAdapter | None = None,
    replan: Replan | None = None,
    on_layer: Callable[[int], None] = lambda layer: None,
) -> Coordinator:
    """Check a plan, start the processes and load it: the embedded default engine."""
    plan.check(spec, cluster)
    check_route(plan, cluster)
    workers = start_local(cluster)
    try:
        return Coordinator(
            workers, model, plan, workload, private=private, replan=replan, on_layer=on_layer
        )
    except BaseException:
        workers.close()
        raise
