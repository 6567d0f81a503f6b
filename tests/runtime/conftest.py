"""Three devices on this machine, and the unsharded model as the truth."""

import pytest
import torch
import transformers

from edgewise.clusters import Cluster, Device, Link
from edgewise.models.cache import Segment
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.layer_files import layer_path
from edgewise.models.layer_store import LayerFiles
from edgewise.models.shard import load_shard
from edgewise.plans import Plan, Stage
from edgewise.runtime.sampling import sample
from edgewise.schemes import DEFAULT
from edgewise.specs import Workload
from tests.conftest import FAMILIES

NAMES = ("laptop", "jetson", "pi")
WORKLOAD = Workload(prompt_tokens=20, new_tokens=30, sequences=2)
BLOCKS = 15  # more than buffers on each of three devices


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


def streaming_plan(model, names=NAMES):
    """The layers cut evenly, and of each device's blocks all but the first on disk."""
    spec, count = open_checkpoint(model).spec, BLOCKS + 2
    ends, stages = [round(count * (i + 1) / len(names)) for i in range(len(names))], []
    for name, start, end in zip(names, [0, *ends], ends, strict=False):
        blocks = range(max(start, 1), min(end, count - 1))
        stages.append(Stage(name, start, end, ("fp32",) * (end - start), tuple(blocks[1:])))
    return Plan(spec.name, spec.digest, count, tuple(stages))


def file_of(model, layer):
    """Of a layer that is read from disk."""
    files = LayerFiles(open_checkpoint(model))
    return layer_path(files.folder, files.file(layer, "fp32").key)


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


@pytest.fixture(scope="session")
def deep(tmp_path_factory):
    """A model for streaming_plan."""
    folder = tmp_path_factory.mktemp("deep")
    sizes = {**FAMILIES["llama"][1], "num_hidden_layers": BLOCKS}
    transformers.set_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).save_pretrained(folder)
    return str(folder)
