"""`edgewise devices`: what this machine is, or what a cluster file says."""

import os
import platform
from dataclasses import asdict
from pathlib import Path

import psutil
import torch
from rich.table import Table

from edgewise import kernels
from edgewise.cli.commands import DevicesOptions
from edgewise.cli.terminal import cluster_table, console, finite_values, print_json
from edgewise.cluster_files import load_cluster
from edgewise.runtime.machine import physical_cores
from edgewise.units import format_bytes

SLOW = "none: few bits take the slow path through torch (no compiler at installation, or off)"


def show_devices(options: DevicesOptions) -> None:
    """Print this machine, or the cluster of a file."""
    screen = console(options.as_json)
    if options.cluster is not None:
        cluster = load_cluster(options.cluster)
        screen.print(cluster_table(cluster))
        document: dict[str, object] = {
            "source": cluster.source,
            "devices": [finite_values(asdict(device)) for device in cluster.devices],
            "links": [finite_values(asdict(link)) for link in cluster.all_links()],
        }
    else:
        document = describe_machine()
        table = Table("", "this machine", show_header=False, title="This machine")
        for key, value in document.items():
            text = format_bytes(value) if isinstance(value, int) and value > 2**20 else str(value)
            table.add_row(key.removesuffix("_bytes").replace("_", " "), text)
        screen.print(table)
    if options.as_json:
        print_json(document)


def describe_machine() -> dict[str, object]:
    """What a plan would want to know about this machine."""
    memory = psutil.virtual_memory()
    return {
        "name": platform.node(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": physical_cores(),
        "threads": os.cpu_count() or 1,
        "memory_bytes": memory.total,
        "free_memory_bytes": memory.available,
        "accelerator": _accelerator(),
        "torch": torch.__version__,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "kernels": kernels.instruction_set() or SLOW,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def _accelerator() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return "Apple GPU (mps)" if torch.backends.mps.is_available() else "none"
