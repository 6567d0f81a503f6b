"""Trainings over machines that joined, without a copy of the model, against one process."""

import os
import signal

import psutil
import pytest
import torch

from edgewise.adapters import AdapterConfig, Kind
from edgewise.errors import ClusterError, Infeasible
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.layer_store import LayerFiles
from edgewise.runtime.messages import Peers, Piece, Stop
from edgewise.tuning import messages
from edgewise.tuning.devices import TrainingOnDevices, rehearse
from edgewise.tuning.loading import load_tunable
from edgewise.tuning.method import TuningMethod
from edgewise.tuning.placing import WindowPlace
from edgewise.tuning.private_devices import PrivateTraining
from edgewise.tuning.recipe import Recipe
from edgewise.tuning.training import Training
from tests.runtime.places import until
from tests.tuning.joined import machines
from tests.tuning.test_training import LESSONS

STEPS = 16


def recipe_of(method, **options):
    private = method is TuningMethod.PRIVATE
    kind, matrices = (Kind.PRIVATE, ("q", "k", "v")) if private else (Kind.LORA, ("q", "v", "up"))
    adapter = AdapterConfig(kind, 4, matrices=matrices)
    known = {"window": 1, "steps": STEPS, "batch": 3, "rate": 1e-2, "adapter": adapter}
    return Recipe(method, **known | options)


def begun(joined, checkpoint, method, scheme="fp32", first="a", on_loss=lambda lost: None, **more):
    """One over machines, windows in order on `first` and the others, and the same in this
    process."""
    opened, recipe = open_checkpoint(str(checkpoint)), recipe_of(method, **more)
    windows = recipe.windows(opened.config.num_blocks)
    here = Training(load_tunable(opened, scheme, recipe.adapter, windows), recipe, LESSONS)
    told = opened.model, scheme, recipe
    if method is TuningMethod.PRIVATE:
        there = PrivateTraining(joined.workers, opened.spec, *told, LESSONS, on_loss)
        return there, here

    def places(workers):
        names = sorted(workers.names, key=lambda name: name != first)
        cuts = [*range(len(names)), len(windows)]
        return [WindowPlace(x, cuts[i], cuts[i + 1]) for i, x in enumerate(names)]

    there = TrainingOnDevices(joined.workers, places, *told, windows, LESSONS, on_loss)
    return there, here


def steps_of(training, count):
    return [training.step() for _ in range(count)]


def keys(checkpoint, scheme, layers, shared=()):
    """The names of layers' files, as another machine of the same model would make them."""
    store = LayerFiles(open_checkpoint(str(checkpoint)))
    return {store.file(x, scheme, shared=x in shared).key for x in layers}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two machines that joined."""
    with machines(tmp_path_factory.mktemp("machines"), "bc") as joined:
        yield joined


@pytest.mark.parametrize("method", [TuningMethod.WINDOW, TuningMethod.PRIVATE])
def test_losses_are_those_of_one_process(two, checkpoint, method):
    there, here = begun(two, checkpoint("llama"), method)
    for mine, truth in zip(steps_of(there, STEPS), steps_of(here, STEPS), strict=True):
        assert (mine.number, mine.window, mine.tokens) == (truth.number, truth.window, truth.tokens)
        assert mine.loss == pytest.approx(truth.loss, abs=1e-5)
    done, tensors = there.state()
    truth = here.state()[1]
    assert done == STEPS and tensors.keys() == truth.keys()
    for name, tensor in truth.items():
        torch.testing.assert_close(tensors[name], tensor, rtol=1e-3, atol=1e-6)
    judged, truth = there.judge(LESSONS), here.judge(LESSONS)
    last = f"exit {here.model.config.num_blocks}"
    assert judged[last].loss == pytest.approx(truth["last"].loss, abs=1e-5)


@pytest.mark.parametrize("family", ["llama-tied", "qwen3"])
def test_a_machine_gets_the_layers_of_its_windows_alone(tmp_path, checkpoint, family):
    """Packed, and with a tied head, whose matrix does not cross twice."""
    with machines(tmp_path, "b") as joined:
        there, here = begun(
            joined, checkpoint(family), TuningMethod.WINDOW, "q4g32ad", "b", steps=8
        )
        losses = [x.loss for x in steps_of(there, 8)]
        assert losses == pytest.approx([x.loss for x in steps_of(here, 8)], abs=1e-5)
        config = here.model.config
        shared = (config.num_layers - 1,) if config.tied else ()
        wanted = keys(checkpoint(family), "q4g32ad", (0, 1, config.num_layers - 1), shared)
        assert joined.files("b") == wanted


def test_privately_a_machine_gets_blocks_and_numbers_alone(tmp_path, checkpoint, monkeypatch):
    """Neither embedding nor head, no record, no M: by what it keeps, and by what it is told."""
    with machines(tmp_path, "b") as joined:
        sent, send = [], joined.workers.send

        def note(device, message, tensor=None):
            sent.append((device, message))
            send(device, message, tensor)

        monkeypatch.setattr(joined.workers, "send", note)
        there, here = begun(joined, checkpoint("llama-tied"), TuningMethod.PRIVATE, steps=4)
        losses = [x.loss for x in steps_of(there, 4)]
        there.state()
        assert losses == pytest.approx([x.loss for x in steps_of(here, 4)], abs=1e-5)
        blocks = range(1, here.model.config.num_blocks + 1)
        assert joined.files("b") == keys(checkpoint("llama-tied"), "fp32", blocks)
        told = [message for device, message in sent if device == "b"]
        assert {type(x) for x in told} <= {Peers, messages.HoldBlocks, Piece, Stop}
        (hold,) = (x for x in told if isinstance(x, messages.HoldBlocks))
        assert hold.weights.model == "" and hold.weights.layers == tuple(blocks)


@pytest.mark.parametrize("method", [TuningMethod.WINDOW, TuningMethod.PRIVATE])
def test_it_goes_on_without_a_machine_that_is_killed_with_the_same_losses(
    tmp_path, checkpoint, method
):
    said = []
    with machines(tmp_path, "bc") as joined:
        there, here = begun(joined, checkpoint("llama"), method, on_loss=said.append, steps=40)
        steps = steps_of(there, 7)
        there.state()
        agent = joined.processes["b"]
        (worker,) = (x for x in psutil.Process(agent.pid).children() if _is_busy(x))
        agent.send_signal(signal.SIGKILL)
        steps += steps_of(there, 33)
        done, _ = there.state()
        assert until(lambda: not worker.is_running())  # it does not outlive its agent
    assert done == 40
    truth = steps_of(here, 40)
    assert [x.loss for x in steps] == pytest.approx([x.loss for x in truth], abs=1e-5)
    assert [x.device for x in said] == ["b"]


def _is_busy(process):
    """Not one that waits to be told whose it is."""
    return len(process.net_connections()) > 0


def test_a_machine_that_dies_while_it_is_sent_its_layers_is_gone_on_without(
    tmp_path, checkpoint, monkeypatch
):
    said = []
    with machines(tmp_path, "bc") as joined:
        agent, send = joined.processes["c"], joined.workers.send

        def kill(device, message, tensor=None):
            if isinstance(message, Piece) and device == "c" and agent.poll() is None:
                os.kill(agent.pid, signal.SIGKILL)
                agent.wait()
            send(device, message, tensor)

        monkeypatch.setattr(joined.workers, "send", kill)
        there, here = begun(
            joined, checkpoint("llama"), TuningMethod.PRIVATE, on_loss=said.append, steps=4
        )
        losses = [x.loss for x in steps_of(there, 4)]
        assert list(there.blocks) == ["b"]
    assert losses == pytest.approx([x.loss for x in steps_of(here, 4)], abs=1e-5)
    assert [x.device for x in said] == ["c"]


def test_where_only_this_machine_is_left_private_training_ends(tmp_path, checkpoint):
    with machines(tmp_path, "b") as joined:
        there, _ = begun(joined, checkpoint("llama"), TuningMethod.PRIVATE, steps=500)
        there.step()
        joined.processes["b"].send_signal(signal.SIGKILL)
        with pytest.raises(Infeasible, match="'a' is the only device"):
            steps_of(there, 499)


@pytest.mark.timing
def test_what_a_window_costs_is_measured_on_machines_without_the_model(two, checkpoint):
    model, recipe = str(checkpoint("llama")), recipe_of(TuningMethod.WINDOW, batch=480)
    (window, *_) = recipe.windows(4)
    costs = rehearse(two.workers, model, "q4g32ad", recipe, window, LESSONS * 40)
    assert costs.keys() == {"a", "b", "c"}
    for cost in costs.values():
        assert 0 < cost.plain_seconds < cost.step_seconds


def test_a_rehearsal_tells_no_record(two, checkpoint, monkeypatch):
    asked, call = [], two.workers.call

    def note(device, message, *rest):
        asked.append(message)
        return call(device, message, *rest)

    monkeypatch.setattr(two.workers, "call", note)
    recipe = recipe_of(TuningMethod.WINDOW, batch=len(LESSONS))
    rehearse(two.workers, str(checkpoint("llama")), "fp32", recipe, recipe.windows(4)[0], LESSONS)
    assert len(asked) == 3
    for message in asked:
        assert {token for lesson in message.lessons for token in lesson.tokens} == {0}
        assert [len(x.tokens) for x in message.lessons] == [len(x.tokens) for x in LESSONS]


def test_too_few_machines_are_waited_for_no_longer_than_was_said(tmp_path):
    said = []
    with machines(tmp_path) as joined:
        joined.start("b")
        joined.let_in(1, say=said.append)
        assert said == ["'b' joined"]
        with pytest.raises(
            ClusterError, match=r"1 of 2 machines joined within 1 s, 'b': .*--wait, .*--join"
        ):
            joined.let_in(2, seconds=1)


def test_a_machine_of_this_ones_name_is_told_to_take_another(tmp_path):
    with machines(tmp_path) as joined:
        joined.start("a")
        assert until(lambda: joined.agents.refused)
        with pytest.raises(ClusterError, match=r"0 of 1 machines .* turned away: name taken"):
            joined.let_in(1, seconds=0)


def test_a_machine_that_leaves_while_others_are_waited_for_counts_no_more(tmp_path):
    said = []

    def kill(text):
        said.append(text)
        if text == "'b' joined":
            joined.processes["b"].send_signal(signal.SIGKILL)
            joined.start("c")
            joined.start("d")

    with machines(tmp_path) as joined:
        joined.start("b")
        joined.let_in(2, say=kill)
        assert sorted(joined.workers.names) == ["a", "c", "d"]
    assert any("device 'b'" in text for text in said)
