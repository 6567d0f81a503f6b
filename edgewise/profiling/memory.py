"""What memory the devices' machines have free."""

from edgewise.profiles import DeviceReading
from edgewise.profiling.bench import TIME_SECONDS
from edgewise.runtime.local import LocalDevices


def read_memory(devices: LocalDevices) -> tuple[DeviceReading, ...]:
    """A reading of every kind of device, without the seconds of a step. What the workers of a
    machine take by now counts as free: others may be started in their place."""
    cluster = devices.cluster
    names = {device.kind: device.name for device in reversed(cluster.devices)}
    kinds = tuple(dict.fromkeys(device.kind for device in cluster.devices))
    bodies = {
        kind: devices.call(names[kind], "describe", {}, "described", TIME_SECONDS).body
        for kind in kinds
    }
    taken: dict[str, int] = {}
    for device in cluster.devices:
        body = bodies[device.kind]
        taken[body["machine"]] = taken.get(body["machine"], 0) + body["process_bytes"]
    return tuple(
        DeviceReading(
            kind,
            step_seconds=0.0,
            free_bytes=body["free_bytes"] + taken[body["machine"]],
            machine=body["machine"],
            process_bytes=body["process_bytes"],
        )
        for kind, body in bodies.items()
    )
