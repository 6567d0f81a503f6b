"""A training whose M stay on the source, over worker processes, against the same in this one."""

import os
import signal
import time

import pytest
import torch

from edgewise.adapters import AdapterConfig, Kind
from edgewise.clusters import Cluster, Device, Network
from edgewise.errors import DeviceError, DeviceLost, Infeasible, NonFinite
from edgewise.models.checkpoint import open_checkpoint
from edgewise.runtime.local import start_local
from edgewise.runtime.messages import Stop, WorkerProgram
from edgewise.tuning import checkpoints, messages
from edgewise.tuning.lessons import batch_of, drawn
from edgewise.tuning.loading import load_tunable
from edgewise.tuning.method import TuningMethod
from edgewise.tuning.private_devices import PrivateTraining, block_places
from edgewise.tuning.recipe import Recipe
from edgewise.tuning.training import Training
from tests.tuning.test_training import LESSONS

QKV, RANK, STEPS = ("q", "k", "v"), 4, 20


def cluster_of(names, memory=10**9):
    network = Network(tuple(names), latency_seconds=0.001)
    return Cluster(tuple(Device(x, memory) for x in names), (), names[0], (network,))


def recipe_of(matrices=QKV, **options):
    adapter = AdapterConfig(Kind.PRIVATE, RANK, matrices=matrices)
    known = {"steps": STEPS, "batch": 3, "rate": 1e-2, "adapter": adapter}
    return Recipe(TuningMethod.PRIVATE, **known | options)


@pytest.fixture(scope="module", params=["ab", "abc"])
def workers(request):
    with start_local(cluster_of(request.param), WorkerProgram.TUNE) as started:
        yield started


def trainings(workers, checkpoint, scheme="fp32", recipe=None, **options):
    """One over devices, and the same in this process."""
    recipe = recipe or recipe_of()
    opened = open_checkpoint(str(checkpoint))
    told = workers, opened.spec, opened.model, scheme, recipe, LESSONS
    windows = recipe.windows(opened.config.num_blocks)
    here = load_tunable(opened, scheme, recipe.adapter, windows)
    return PrivateTraining(*told, **options), Training(here, recipe, LESSONS)


def steps_of(training, count):
    return [training.step() for _ in range(count)]


def agree(there, here):
    done, tensors = there.state()
    truth_done, truth = here.state()
    assert done == truth_done and tensors.keys() == truth.keys()
    for name, tensor in truth.items():
        torch.testing.assert_close(tensors[name], tensor, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "family, matrices",
    [("llama", QKV), ("qwen3-wide-heads", (*QKV, "o", "gate", "up", "down")), ("opt", ("v", "o"))],
)
def test_losses_and_every_m_are_those_of_one_device(workers, checkpoint, family, matrices):
    there, here = trainings(workers, checkpoint(family), recipe=recipe_of(matrices))
    for mine, truth in zip(steps_of(there, STEPS), steps_of(here, STEPS), strict=True):
        assert (mine.number, mine.tokens) == (truth.number, truth.tokens)
        assert mine.loss == pytest.approx(truth.loss, abs=1e-5)
    agree(there, here)
    (judged,), truth = there.judge(LESSONS).values(), here.judge(LESSONS)["last"]
    assert judged.loss == pytest.approx(truth.loss, abs=1e-5)
    assert judged.right == truth.right


def test_packed_blocks_learn_as_on_one_device(workers, checkpoint):
    """Within what bfloat16 rounds: what is added is computed in float32, as in service."""
    there, here = trainings(
        workers, checkpoint("llama-biases"), "q4g32ad", recipe_of(("v", "down"))
    )
    first, last = there.step().loss, [x.loss for x in steps_of(there, STEPS - 1)]
    assert first == pytest.approx(here.step().loss, abs=1e-6)
    assert last == pytest.approx([x.loss for x in steps_of(here, STEPS - 1)], abs=0.02)
    assert last[-1] < first - 0.1


def test_what_crosses_are_states_twice_and_three_r_numbers_a_block(workers, checkpoint):
    """Of every token of a batch, both ways, and both ways again for gradients."""
    there, here = trainings(workers, checkpoint("llama"))
    config = here.model.config
    for number, step in enumerate(steps_of(there, 3)):
        tokens = batch_of(drawn(LESSONS, 3, number, 0)).tokens.numel()
        states, low = config.hidden_size, config.num_blocks * len(QKV) * RANK
        assert step.crossed_bytes == 4 * tokens * (3 * states + 4 * low)


def test_a_checkpoint_goes_on_in_one_process(workers, checkpoint, tmp_path):
    there, here = trainings(workers, checkpoint("llama"))
    truth = [x.loss for x in steps_of(here, STEPS)]
    assert [x.loss for x in steps_of(there, 5)] == pytest.approx(truth[:5], abs=1e-5)
    checkpoints.save(there, tmp_path, "key")
    _, again = trainings(workers, checkpoint("llama"))
    again.resume(*checkpoints.kept_in(tmp_path, "key"))
    assert 5 <= again.done < STEPS
    rest = [x.loss for x in steps_of(again, STEPS - again.done)]
    assert rest == pytest.approx(truth[-len(rest) :], abs=1e-5)


def test_a_loss_that_is_no_number_ends_it(workers, checkpoint):
    recipe = recipe_of(rate=1e37)
    there, _ = trainings(workers, checkpoint("llama"), recipe=recipe)
    with pytest.raises(NonFinite, match="rate"):
        steps_of(there, STEPS)


def test_what_a_block_raises_ends_it_at_once(checkpoint):
    """Here by states that are too narrow for it."""
    with start_local(cluster_of("ab"), WorkerProgram.TUNE) as workers:
        there, _ = trainings(workers, checkpoint("llama"), recipe=recipe_of(steps=500))
        there.step()
        workers.send("b", messages.Through(workers.epoch, 7, True), torch.zeros(1, 3, 5))
        with pytest.raises(DeviceError, match="device 'b' failed: RuntimeError"):
            steps_of(there, 499)


def test_a_device_that_ends_while_it_waits_for_an_answer_is_lost_and_has_not_failed(checkpoint):
    """What it asks is of a batch that the source knows nothing of."""
    said = []
    with start_local(cluster_of("abc"), WorkerProgram.TUNE) as workers:
        there, here = trainings(workers, checkpoint("llama"), on_loss=said.append)
        there.step()
        there.state()
        states = torch.zeros(1, 3, here.model.config.hidden_size)
        workers.send("b", messages.Through(workers.epoch, 999, False), states)
        time.sleep(0.5)  # until it waits: what travels as numbers do takes longer
        workers.send("b", Stop())
        steps_of(there, STEPS - 1)
        steps_of(here, STEPS)
        agree(there, here)
    assert [(type(x), x.device) for x in said] == [(DeviceLost, "b")]


@pytest.mark.parametrize("dies", ["a", "b", "c"])
def test_it_goes_on_without_a_device_that_dies_with_the_same_losses(checkpoint, dies):
    said = []
    with start_local(cluster_of("abc"), WorkerProgram.TUNE) as workers:
        options = {"recipe": recipe_of(steps=60), "on_loss": said.append}
        there, here = trainings(workers, checkpoint("llama"), **options)
        steps = steps_of(there, 7)
        there.state()
        os.kill(workers.process_ids[dies], signal.SIGKILL)
        steps += steps_of(there, 53)
        agree_with = steps_of(here, 60)
        agree(there, here)
    assert [x.loss for x in steps] == pytest.approx([x.loss for x in agree_with], abs=1e-5)
    assert [x.device for x in said] == [dies]


def test_where_only_the_source_is_left_it_ends(checkpoint):
    with start_local(cluster_of("ab"), WorkerProgram.TUNE) as workers:
        there, _ = trainings(workers, checkpoint("llama"), recipe=recipe_of(steps=500))
        there.step()
        os.kill(workers.process_ids["b"], signal.SIGKILL)
        with pytest.raises(Infeasible, match="'a' is the only device"):
            steps_of(there, 499)


def test_blocks_lie_by_memory_where_they_fit(checkpoint):
    spec = open_checkpoint(str(checkpoint("llama"))).spec
    source, small, large = (Device(x, 10**9 * n) for x, n in (("s", 1), ("x", 1), ("y", 3)))
    network = Network(("s", "x", "y"), latency_seconds=0.001)
    cluster = Cluster((source, small, large), (), "s", (network,))
    assert block_places(spec, "fp32", cluster) == {"x": range(1), "y": range(1, 4)}
    with pytest.raises(Infeasible, match="use fewer bits"):
        block_places(spec, "fp32", cluster_of("sx", memory=1000))
