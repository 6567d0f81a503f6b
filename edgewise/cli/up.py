"""`edgewise up`: a model on this machine and on those that join it."""

import contextlib
import os
import secrets
import signal
import socket
from dataclasses import asdict, replace

import psutil

from edgewise.batching import POLICIES
from edgewise.cli.commands import workload_of
from edgewise.cli.sharing import UpOptions
from edgewise.cli.terminal import console, print_json, print_notes
from edgewise.cli.this_device import parse_address, this_device
from edgewise.clusters import Device
from edgewise.hosting import Chooser, Event, Host, Measured
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.tokenizer import load_tokenizer
from edgewise.profiling import Grid
from edgewise.runtime.launchers import Launcher
from edgewise.runtime.limits import limits_of
from edgewise.runtime.live import start_live, start_on_ray
from edgewise.runtime.workers import Workers
from edgewise.schemes import get_scheme
from edgewise.serving import HttpServer, create_app

REPEATS = 9  # of every timing: whoever joined is waited for
KEY = "EDGEWISE_API_KEY"
EVERYWHERE = ("0.0.0.0", "::")
TOKEN_FIRST = "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=...  # as `ray get-auth-token` says here"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def run_up(options: UpOptions) -> None:
    """Until interrupted: the first time, requests under way are answered before it ends."""
    if options.scheme is not None:
        get_scheme(options.scheme)
    listen, http = parse_address(options.listen, "--listen"), parse_address(options.http, "--http")
    device = this_device(options.name, options.memory, options.threads)
    checkpoint = open_checkpoint(options.model)
    print_notes(checkpoint.notes)
    spec, tokenizer = checkpoint.spec, load_tokenizer(options.model)
    workload = workload_of(options, options.kv_cache)
    context = limits_of(workload, spec.max_context).context
    screen = console(options.as_json)

    def on_event(event: Event) -> None:
        screen.print(f"[dim]{event.seconds:7.1f} s[/]  {event.text}")
        if options.as_json:
            print_json(asdict(event))

    workers, launcher, line = _start(device, listen, ray=options.ray)
    with workers:
        grid = replace(Grid.serving(workload), repeats=REPEATS)
        measured = Measured(workers, options.model, spec, grid)
        how = options.scheme, options.objective, POLICIES[options.policy]
        chooser = Chooser(workers, measured, spec, workload, *how)
        host = Host(options.model, workers, launcher, measured, chooser, workload, on_event)
        key = _key(http[0])
        server = HttpServer(create_app(host, tokenizer, context, key), *http)
        try:
            url = f"http://{http[0]}:{server.port}/v1"
            screen.print(f"[bold]{options.model}[/] at {url}" + (f", key {key}" if key else ""))
            screen.print("To lend another machine to it, run there:")
            if options.ray:
                screen.print(f"  {TOKEN_FIRST}", soft_wrap=True)
            screen.print(f"  [bold]{line}[/]", soft_wrap=True)
            if options.as_json:
                print_json({"url": url, "join": line, "key": key})
            _on_interrupt(host)
            host.run()
        finally:
            server.close()


def _start(device: Device, listen: tuple[str, int], *, ray: bool) -> tuple[Workers, Launcher, str]:
    """With the line that makes another machine join."""
    host = _reachable(listen[0])
    if ray:
        return start_on_ray(device, host)
    workers, agents, invitation = start_live(device, *listen)
    port = agents.address.rpartition(":")[2]
    return workers, agents, f"edgewise join {host}:{port} --token {invitation.token}"


def _key(http: str) -> str:
    """Beyond this machine, nobody is answered without one."""
    given = os.environ.get(KEY, "")
    if given or http in LOOPBACK:
        return given
    return secrets.token_urlsafe(24)


def _on_interrupt(host: Host) -> None:
    def interrupt(signum: int, frame: object) -> None:
        host.stop(drain=True)
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, lambda signum, frame: host.stop(drain=False))

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, interrupt)


def _reachable(host: str) -> str:
    """Where others reach this machine: of an address that means all, the one that leads out, else
    the first of its own."""
    if host not in EVERYWHERE:
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # sends nothing; an address for documents (RFC 5737)
        return str(probe.getsockname()[0])
    own = (x.address for all_of in psutil.net_if_addrs().values() for x in all_of
           if x.family == socket.AF_INET and x.address not in LOOPBACK)  # fmt: skip
    return next(own, LOOPBACK[0])
