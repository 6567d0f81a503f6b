"""Three devices on this machine, and the unsharded model as the truth."""

import pytest
import torch

from edgewise.clusters import Cluster, Device, Link
from edgewise.models.cache import Segment
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.shard import load_shard
from edgewise.plans import Plan, Stage
from edgewise.runtime.sampling import sample
from edgewise.schemes import DEFAULT
from edgewise.specs import Workload

NAMES = ("laptop", "jetson", "pi")
WORKLOAD = Workload(prompt_tokens=20, new_tokens=30, sequences=2)


def cluster(latency=0.0, memory=10**9, names=NAMES):
    """Devices that are all linked to each other."""
    links = [Link(a, b, 1e9, latency) for a in names for b in names if a != b]
    return Cluster(tuple(Device(name, memory) for name in names), tuple(links), names[0])


def plan_of(model, *ends):
    """A plan from (device, end) pairs, in fp32."""
    spec = open_checkpoint(model).spec
    stages, at = [], 0
    for device, end in ends:
        stages.append(Stage(device, at, end, ("fp32",) * (end - at)))
        at = end
    return spec, Plan(spec.name, spec.digest, spec.num_layers, tuple(stages))


def reference(model, request, scheme=DEFAULT):
    """The tokens of a request by the unsharded model, one sequence, one process."""
    shard = load_shard(model, schemes=scheme)
    tokens, entering, at = [], torch.tensor(request.prompt), 0
    while True:
        logits = shard.forward(entering, [Segment(0, at, len(entering))], rows=[len(entering) - 1])
        at += len(entering)
        tokens.append(sample(logits[0], request.sampling, at))
        if tokens[-1] in request.stop_ids or len(tokens) == request.max_tokens:
            return tokens
        entering = torch.tensor(tokens[-1:])


@pytest.fixture
def prompt():
    return tuple(range(3, 14))
