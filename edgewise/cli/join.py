"""`edgewise join`: this machine in somebody's cluster."""

from edgewise.cli.sharing import JoinOptions
from edgewise.cli.terminal import console, print_json
from edgewise.cli.this_device import parse_address, this_device
from edgewise.runtime.launchers.agent import Agent
from edgewise.runtime.launchers.invitation import Invitation


def run_join(options: JoinOptions) -> None:
    """Until interrupted."""
    host, port = parse_address(options.address, "ADDRESS")
    invitation = Invitation.parse(options.token)
    device = this_device(
        options.name, options.memory, options.threads, options.slowdown, options.disk
    )
    screen = console(options.as_json)

    def say(text: str) -> None:
        screen.print(text)
        if options.as_json:
            print_json({"event": text})

    Agent(f"tcp://{host}:{port}", invitation, device, host=options.host, say=say).run()
