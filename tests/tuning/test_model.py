"""Losses and gradients against transformers' own."""

import psutil
import pytest
import torch

from edgewise.adapters import AdapterConfig, Kind
from edgewise.models.checkpoint import open_checkpoint
from edgewise.tuning.kept import fewest_again, kept_by
from edgewise.tuning.lessons import Lesson, batch_of
from edgewise.tuning.loading import load_tunable
from edgewise.tuning.model import Window, windows_of
from edgewise.tuning.training import loss_of as loss_behind
from tests.conftest import random_model

FAMILIES = ("llama", "llama-tied", "llama-biases", "mistral-window", "qwen2", "qwen3", "opt")
MODULES = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj", "gate": "gate_proj",
           "up": "up_proj", "down": "down_proj"}  # fmt: skip
OPT = {"o": "out_proj", "up": "fc1", "down": "fc2"}
LESSONS = [Lesson((5, 9, 33, 21, 60, 7, 2), 3), Lesson((11, 4, 8), 1), Lesson((3, 90, 17, 2), 2)]
ALL = Window(0, 4)


@pytest.fixture(scope="module")
def tunable(checkpoint):
    def load(family, kind=Kind.LORA, windows=(ALL,), **options):
        adapter = AdapterConfig(kind, 4, **options)
        return load_tunable(open_checkpoint(str(checkpoint(family))), "fp32", adapter, windows)

    return load


def loss_of(model, window, batch):
    """From the first token on."""
    states = model.plain(model.entered(batch.tokens), 0, window.first)
    return loss_behind(model, window, batch, states)


def transformers_loss(model, batch):
    logits = model(batch.tokens).logits[:, :-1][batch.learned]
    return torch.nn.functional.cross_entropy(logits, batch.targets)


def matrix_of(model, family, block, part):
    name = (OPT if family.startswith("opt") else MODULES).get(part, MODULES[part])
    decoder = model.model.decoder if family.startswith("opt") else model.model
    found = [m for n, m in decoder.layers[block].named_modules() if n.split(".")[-1] == name]
    return found[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_adapters_are_those_of_the_matrices_they_change(tunable, family):
    """Where U = 0, dL/dU = scale dL/dW D^T: transformers' autograd gives dL/dW."""
    ours, theirs, batch = tunable(family), random_model(family), batch_of(LESSONS)
    loss = loss_of(ours, ALL, batch)
    truth = transformers_loss(theirs, batch)
    assert loss.item() == pytest.approx(truth.item(), rel=1e-5)
    loss.backward()
    truth.backward()
    for block, parts in enumerate(ours.added):
        assert parts
        for part, low in parts.items():
            whole = matrix_of(theirs, family, block, part).weight.grad
            right = low.config.scale * whole @ low.down.detach().T
            assert (low.up.grad - right).norm() <= 1e-4 * right.norm() + 1e-7, (block, part)


def test_a_window_trains_its_own_blocks_and_exit_alone(tunable):
    windows = windows_of(4, 2)
    model, batch = tunable("llama", windows=windows), batch_of(LESSONS)
    loss_of(model, windows[0], batch).backward()
    own = {name for name, x in model.named_parameters() if x.grad is not None}
    assert {name for name in own if name.startswith("exits.")} == {"exits.0.turn", "exits.0.scale"}
    for number, added in enumerate(model.added):
        assert all((low.up.grad is not None) == (number < 2) for low in added.values())


def test_adapters_of_all_blocks_are_whole_without_an_exit(tunable):
    """What serves them has the model's own head."""
    model = tunable("llama")
    assert not [name for name in model.trained(ALL) if name.startswith("exit")]


def test_blocks_behind_the_exit_do_not_run(tunable):
    windows, ran = windows_of(4, 2), []
    model = tunable("llama", windows=windows)
    for number, block in model.blocks.items():
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    loss_of(model, windows[0], batch_of(LESSONS)).backward()
    assert ran == [0, 1]


def test_the_last_exit_of_a_model_that_learned_nothing_is_its_head(tunable):
    windows = windows_of(4, 1)
    model, batch = tunable("qwen3", windows=windows), batch_of(LESSONS)
    truth = transformers_loss(random_model("qwen3"), batch)
    assert loss_of(model, windows[-1], batch).item() == pytest.approx(truth.item(), rel=1e-5)


def test_a_window_gets_what_blocks_without_adapters_make(tunable):
    windows = windows_of(4, 2)
    model, batch = tunable("llama", windows=windows), batch_of(LESSONS)
    before = loss_of(model, windows[1], batch).item()
    with torch.no_grad():
        for low in model.added[0].values():
            low.up.normal_()
    assert loss_of(model, windows[1], batch).item() == before


@pytest.mark.parametrize(
    "blocks, size, ends", [(30, 6, (6, 12, 18, 24, 30)), (30, 8, (6, 14, 22, 30)), (4, 9, (4,))]
)
def test_windows_cover_all_blocks_once(blocks, size, ends):
    windows = windows_of(blocks, size)
    assert tuple(window.end for window in windows) == ends
    assert [x for w in windows for x in range(w.first, w.end)] == list(range(blocks))
    with pytest.raises(ValueError):
        windows_of(blocks, 0)


def test_blocks_that_run_again_keep_less_and_give_the_same_gradients(tunable):
    """Bit by bit; and how many have to is what a count of all would say."""
    model, batch = tunable("llama"), batch_of(LESSONS)
    states, truth = model.entered(batch.tokens), None
    kept = [kept_by(model, ALL, batch, states, again) for again in range(5)]
    assert kept == sorted(kept, reverse=True) and kept[0] > 2 * kept[4]
    for again in range(5):
        loss_behind(model, ALL, batch, states, again).backward()
        gradients = [x.grad.clone() for x in model.trained(ALL).values()]
        truth = truth or gradients
        assert all(map(torch.equal, gradients, truth))
        for parameter in model.trained(ALL).values():
            parameter.grad = None
        assert fewest_again(model, ALL, batch, states, kept[again]) == again
    assert fewest_again(model, ALL, batch, states, kept[4] - 1) is None


def test_what_was_looked_at_is_let_go_of(tunable):
    """Nothing that a look at a step kept stays in memory behind it."""
    model, batch = tunable("llama"), batch_of([Lesson((5, 9, 33, 21) * 12, 1)] * 64)
    states = model.entered(batch.tokens)
    kept = kept_by(model, ALL, batch, states)
    before = psutil.Process().memory_info().rss
    for _ in range(8):
        kept_by(model, ALL, batch, states)
    assert kept > 20e6 and psutil.Process().memory_info().rss - before < 3 * kept
