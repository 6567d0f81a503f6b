"""A model one block of which is an MLP, cut over devices: the tokens of the whole."""

import pytest

from edgewise.models.checkpoint import open_checkpoint
from edgewise.plans import Plan, Stage
from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.engine import Request, stream
from edgewise.runtime.local import start_local
from edgewise.runtime.sampling import Sampling
from tests.models.mlps import write_with_mlp
from tests.runtime.conftest import WORKLOAD, cluster, reference

# Layers: the embedding, a block, the MLP, a block, the head.
PLANS = {
    "before it": [("laptop", 2), ("jetson", 5)],
    "behind it": [("laptop", 3), ("jetson", 5)],
    "it alone": [("laptop", 2), ("jetson", 3), ("pi", 5)],
}
HOT = Sampling(temperature=1.3, top_k=40, seed=11)


@pytest.fixture(scope="module")
def devices():
    with start_local(cluster()) as running:
        yield running


@pytest.fixture(scope="module")
def model(checkpoint, tmp_path_factory):
    return write_with_mlp(tmp_path_factory.mktemp("mlp") / "new", checkpoint("llama-wide-heads"))


@pytest.mark.parametrize("scheme", ["bf16", "q4g32ad"])
@pytest.mark.parametrize("stages", PLANS.values(), ids=PLANS)
def test_the_pipeline_gives_the_tokens_of_the_whole(devices, model, prompt, stages, scheme):
    spec, made, at = open_checkpoint(model).spec, [], 0
    for device, end in stages:
        made.append(Stage(device, at, end, (scheme,) * (end - at)))
        at = end
    plan = Plan(spec.name, spec.digest, spec.num_layers, tuple(made))
    engine = Coordinator(devices, str(model), plan, WORKLOAD)
    # Two at a time, the second of which begins as the first one does.
    requests = [Request(prompt, 20, HOT), Request((*prompt, 40, 41), 12)]
    numbers = [engine.submit(request) for request in requests]
    answers = {number: [] for number in numbers}
    while batch := engine.step():
        for token in batch:
            answers[token.request].append(token.id)
    assert list(answers.values()) == [reference(model, x, scheme) for x in requests]
    again = [token.id for token in stream(engine, requests[1])]
    assert again == answers[numbers[1]]
