"""What memory the devices' machines have free, and how fast their disks are read."""

from edgewise.profiles import DeviceReading
from edgewise.profiling.bench import TIME_SECONDS
from edgewise.runtime import messages
from edgewise.runtime.coordinator.workers import Workers


def read_memory(workers: Workers) -> tuple[DeviceReading, ...]:
    """A reading of every kind of device, without the seconds of a step. What the workers of a
    machine take by now counts as free: others may be started in their place."""
    cluster = workers.cluster
    names = {device.kind: device.name for device in reversed(cluster.devices)}
    kinds = tuple(dict.fromkeys(device.kind for device in cluster.devices))
    ask, answer = messages.Describe(), messages.Described
    said = {kind: workers.call(names[kind], ask, answer, TIME_SECONDS) for kind in kinds}
    taken: dict[str, int] = {}
    for device in cluster.devices:
        its = said[device.kind]
        taken[its.machine] = taken.get(its.machine, 0) + its.process_bytes
    return tuple(
        DeviceReading(
            kind,
            step_seconds=0.0,
            free_bytes=its.free_bytes + taken[its.machine],
            machine=its.machine,
            process_bytes=its.process_bytes,
            disk_bytes_per_second=its.disk_bytes_per_second,
        )
        for kind, its in said.items()
    )
