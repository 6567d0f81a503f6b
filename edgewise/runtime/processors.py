"""The processors that layers run on, by the names that torch has for them."""

import re
import time

import torch

from edgewise.clusters import Cluster
from edgewise.errors import ClusterError

KNOWN = ("cpu", "cuda", "mps", "xpu")
_NAME = re.compile(rf"({'|'.join(KNOWN)})(?::(\d+))?")


def check_processors(cluster: Cluster) -> None:
    """Raise ClusterError, naming the device, where this machine lacks its processor."""
    for device in cluster.devices:
        name = device.processor
        match = _NAME.fullmatch(name)
        where = f"device '{device.name}': processor '{name}'"
        if match is None:
            known = ", ".join(KNOWN)
            raise ClusterError(f"{where} is not known; known processors: {known}, or 'cuda:1'")
        count = _count(match[1])
        if int(match[2] or 0) >= count:
            has = f"{count} of that kind" if count else "none"
            raise ClusterError(f"{where} is not there: this machine has {has} that torch can use")


def _count(kind: str) -> int:
    if kind == "cpu":
        return 1
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    module = torch.cuda if kind == "cuda" else torch.xpu
    return module.device_count() if module.is_available() else 0


def finished_at(processor: torch.device) -> float:
    """The moment of `time.monotonic` at which a processor has done all that it was given: others
    than the CPU compute while the program goes on."""
    if processor.type == "cuda":
        torch.cuda.synchronize(processor)
    elif processor.type == "xpu":
        torch.xpu.synchronize(processor)
    elif processor.type == "mps":
        torch.mps.synchronize()
    return time.monotonic()
