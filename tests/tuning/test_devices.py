"""A training cut over two worker processes, against the same one in this process."""

import os
import signal
import time

import pytest
import torch

from edgewise.adapters import AdapterConfig, Kind
from edgewise.clusters import Cluster, Device, Network
from edgewise.errors import Infeasible, NonFinite
from edgewise.models.checkpoint import open_checkpoint
from edgewise.runtime.local import start_local
from edgewise.runtime.messages import WorkerProgram
from edgewise.schemes import get_scheme
from edgewise.tuning import checkpoints, devices
from edgewise.tuning.devices import TrainingOnDevices, rehearse
from edgewise.tuning.kept import bytes_of
from edgewise.tuning.lessons import Lesson
from edgewise.tuning.loading import load_tunable
from edgewise.tuning.method import WindowOrder
from edgewise.tuning.placing import WindowPlace, place
from edgewise.tuning.recipe import Recipe
from edgewise.tuning.training import Training
from tests.tuning.test_training import LESSONS

PLACES = (WindowPlace("a", 0, 1), WindowPlace("b", 1, 4))
CLUSTER = Cluster(
    tuple(Device(x, 10**9) for x in "ab"), (), "a", (Network(("a", "b"), latency_seconds=0.001),)
)


def recipe_of(**options):
    adapter = AdapterConfig(options.pop("kind", Kind.LORA), rank=4)
    known = {"window": 1, "steps": 14, "batch": 3, "rate": 1e-2, "adapter": adapter}
    return Recipe(**known | options)


@pytest.fixture(scope="module")
def workers():
    with start_local(CLUSTER, WorkerProgram.TUNE) as started:
        yield started


@pytest.fixture
def trainings(checkpoint, workers):
    """One on two devices, and the same in this process."""

    def begin(scheme="fp32", places=PLACES, family="llama", **options):
        recipe = recipe_of(window=2 if len(places) == 1 else 1, **options)
        model = str(checkpoint(family))
        opened = open_checkpoint(model)
        windows = recipe.windows(opened.config.num_blocks)
        cut = (*places[:-1], WindowPlace(places[-1].device, places[-1].first, len(windows)))
        there = TrainingOnDevices(workers, lambda _: cut, model, scheme, recipe, windows, LESSONS)
        here = load_tunable(opened, scheme, recipe.adapter, windows)
        return there, Training(here, recipe, LESSONS)

    return begin


def steps_of(training, count):
    return [training.step() for _ in range(count)]


@pytest.mark.parametrize("order", WindowOrder)
@pytest.mark.parametrize("scheme, family", [("fp32", "llama"), ("q4g32ad", "qwen3")])
def test_losses_are_those_of_one_device(trainings, order, scheme, family):
    there, here = trainings(scheme, order=order, family=family)
    for mine, truth in zip(steps_of(there, 14), steps_of(here, 14), strict=True):
        assert (mine.number, mine.window, mine.tokens) == (truth.number, truth.window, truth.tokens)
        assert mine.loss == pytest.approx(truth.loss, abs=1e-5)


def test_what_was_learned_is_what_one_device_learns(trainings):
    there, here = trainings()
    steps_of(there, 14)
    steps_of(here, 14)
    done, tensors = there.state()
    truth_done, truth = here.state()
    assert done == truth_done and tensors.keys() == truth.keys()
    for name, tensor in truth.items():
        torch.testing.assert_close(tensors[name], tensor, rtol=1e-4, atol=1e-6)
    judged = there.judge(LESSONS)
    for name, verdict in here.judge(LESSONS).items():
        if name in judged:
            assert judged[name].loss == pytest.approx(verdict.loss, abs=1e-5)
            assert judged[name].right == verdict.right
    assert len(judged) == 4


def test_a_checkpoint_goes_on_on_other_devices(trainings, tmp_path):
    """Begun on two, gone on with in one process and on two that are cut elsewhere."""
    whole, _ = trainings(steps=40)
    truth = [x.loss for x in steps_of(whole, 40)]
    first, _ = trainings(steps=40)
    steps_of(first, 5)
    checkpoints.save(first, tmp_path, "key")  # devices were ahead of what was given back
    elsewhere, here = trainings(places=(WindowPlace("b", 0, 3), WindowPlace("a", 3, 4)), steps=40)
    for training in (elsewhere, here):
        training.resume(*checkpoints.kept_in(tmp_path, "key"))
        done = training.done
        assert 5 < done < 40
        rest = [x.loss for x in steps_of(training, 40 - done)]
        assert rest == pytest.approx(truth[done:], abs=1e-5)


def test_a_loss_that_is_no_number_ends_it(checkpoint):
    model, recipe = str(checkpoint("llama")), recipe_of(rate=1e37)
    windows = recipe.windows(4)
    with start_local(CLUSTER, WorkerProgram.TUNE) as workers:
        training = TrainingOnDevices(
            workers, lambda _: PLACES, model, "fp32", recipe, windows, LESSONS
        )
        with pytest.raises(NonFinite, match="rate"):
            steps_of(training, 14)


@pytest.mark.timing
def test_what_a_window_costs_is_measured_where_it_will_be(checkpoint, workers):
    model, recipe = str(checkpoint("llama")), recipe_of(batch=480)
    opened = open_checkpoint(model)
    windows = recipe.windows(opened.config.num_blocks)
    costs = rehearse(workers, model, "fp32", recipe, windows[-1], LESSONS * 40)
    for cost in costs.values():
        assert 0 < cost.plain_seconds < cost.step_seconds
        assert cost.window_bytes > opened.spec.layers[2].weight_bytes(get_scheme("fp32"))
        assert cost.kept_bytes > 0
    places, seconds = place(costs, CLUSTER, len(windows), 1000)
    assert [x for placed in places for x in range(placed.first, placed.end)] == [0, 1, 2, 3]
    assert seconds > 0


@pytest.mark.parametrize("family", ["llama", "llama-tied", "opt"])
def test_the_embedding_counts_where_it_is_not_the_heads(checkpoint, workers, family):
    """Against what a first window's modules take, with an embedding and without."""
    model, recipe = str(checkpoint(family)), recipe_of()
    opened = open_checkpoint(model)
    (window, *_) = recipe.windows(4)
    tunable = load_tunable(opened, "fp32", recipe.adapter, (window,))
    head = bytes_of(tunable.exits[0].out)
    own = bytes_of(torch.nn.ModuleList([tunable.embedding, tunable.exits[0].out])) - head
    costs = rehearse(workers, model, "fp32", recipe, window, LESSONS)
    assert [x.embedding_bytes for x in costs.values()] == [own, own]
    assert (own > 0) == (family != "llama-tied")


def test_what_is_kept_is_of_the_longest_lessons(checkpoint, workers):
    """Though other batches come before theirs."""
    model, recipe = str(checkpoint("llama")), recipe_of(batch=1)
    long = Lesson((5,) * 60, 1)
    told = workers, model, "fp32", recipe, recipe.windows(4)[-1]
    alone, among = rehearse(*told, [long]), rehearse(*told, [*LESSONS, long, *LESSONS])
    assert among["a"].kept_bytes == alone["a"].kept_bytes > rehearse(*told, LESSONS)["a"].kept_bytes


@pytest.mark.parametrize("dies", ["a", "b"])
@pytest.mark.parametrize("kept", [False, True])
def test_it_goes_on_without_a_device_that_dies_with_the_same_losses(checkpoint, dies, kept):
    """From its last state, or from the beginning; the source's worker is started again."""
    model, recipe = str(checkpoint("llama")), recipe_of(steps=60)
    opened, windows, said = open_checkpoint(model), recipe.windows(4), []
    here = Training(load_tunable(opened, "fp32", recipe.adapter, windows), recipe, LESSONS)

    def places(workers):
        return PLACES if len(workers.names) == 2 else (WindowPlace("a", 0, 4),)

    with start_local(CLUSTER, WorkerProgram.TUNE) as workers:
        told = model, "fp32", recipe, windows, LESSONS
        there = TrainingOnDevices(workers, places, *told, on_loss=said.append)
        first = steps_of(there, 11)
        if kept:
            there.state()
            first += steps_of(there, 6)
        os.kill(workers.process_ids[dies], signal.SIGKILL)
        steps = [*first, *steps_of(there, 60 - len(first))]
        done, tensors = there.state()
    truth = steps_of(here, 60)
    assert [(x.number, x.window) for x in steps] == [(x.number, x.window) for x in truth]
    assert [x.loss for x in steps] == pytest.approx([x.loss for x in truth], abs=1e-5)
    assert [x.device for x in said] == [dies]
    assert done == 60
    for name, tensor in here.state()[1].items():
        torch.testing.assert_close(tensors[name], tensor, rtol=1e-4, atol=1e-6)


def test_devices_that_go_on_answering_are_waited_for_however_long_it_takes(
    checkpoint, workers, monkeypatch
):
    """The first dozen answers 0.4 s apart, where a device may be still for 3 s."""
    model, recipe, said = str(checkpoint("llama")), recipe_of(steps=12), []
    told = model, "fp32", recipe, recipe.windows(4), LESSONS
    there = TrainingOnDevices(workers, lambda _: PLACES, *told, on_loss=said.append)
    receive, late = workers.receive, iter([0.4] * 12)

    def receive_late(seconds):
        wait = min(next(late, 0.0), seconds)
        time.sleep(wait)
        return receive(seconds - wait) if wait < seconds else None

    monkeypatch.setattr(devices, "ANSWER_SECONDS", 3.0)
    monkeypatch.setattr(workers, "receive", receive_late)
    there.step()
    assert there.state()[0] == 12
    assert next(late, None) is None and said == []


def test_a_device_that_dies_before_a_checkpoint_is_gone_on_from_is_gone_on_without(checkpoint):
    model, recipe, said = str(checkpoint("llama")), recipe_of(steps=30), []
    opened, windows = open_checkpoint(model), recipe.windows(4)
    here = Training(load_tunable(opened, "fp32", recipe.adapter, windows), recipe, LESSONS)
    steps_of(here, 10)
    kept = here.state()[0], {name: x.clone() for name, x in here.state()[1].items()}

    def places(workers):
        return PLACES if len(workers.names) == 2 else (WindowPlace("a", 0, 4),)

    with start_local(CLUSTER, WorkerProgram.TUNE) as workers:
        told = model, "fp32", recipe, windows, LESSONS
        there = TrainingOnDevices(workers, places, *told, on_loss=said.append)
        os.kill(workers.process_ids["b"], signal.SIGKILL)
        there.resume(*kept)
        losses = [x.loss for x in steps_of(there, 20)]
    assert losses == pytest.approx([x.loss for x in steps_of(here, 20)], abs=1e-5)
    assert [x.device for x in said] == ["b"]


def test_where_too_few_devices_are_left_it_ends(checkpoint):
    model, recipe = str(checkpoint("llama")), recipe_of(steps=500)

    def places(workers):
        if len(workers.names) < 2:
            raise Infeasible("no room")
        return PLACES

    with start_local(CLUSTER, WorkerProgram.TUNE) as workers:
        told = model, "fp32", recipe, recipe.windows(4), LESSONS
        training = TrainingOnDevices(workers, places, *told)
        training.step()
        os.kill(workers.process_ids["b"], signal.SIGKILL)
        with pytest.raises(Infeasible, match="no room"):
            steps_of(training, 499)
