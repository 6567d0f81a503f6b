"""`edgewise up`: a model on this machine and on those that join it."""

from edgewise.cli.joining import reachable, start_listening
from edgewise.cli.serve import Started, on_ray, serve
from edgewise.cli.sharing import UpOptions
from edgewise.cli.this_device import parse_address
from edgewise.clusters import Device


def run_up(options: UpOptions) -> None:
    """Devices join and leave."""
    listen = parse_address(options.listen, "--listen")
    serve(options, lambda device: _start(device, listen, options))


def _start(device: Device, listen: tuple[str, int], options: UpOptions) -> Started:
    if options.ray:
        return on_ray(device, reachable(listen[0]))
    workers, agents, line = start_listening(device, listen, options.new_keys)
    return Started(workers, agents, (line,))
