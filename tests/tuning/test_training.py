import json

import pytest
import torch

from edgewise.adapters import AdapterConfig
from edgewise.errors import InputError, NonFinite
from edgewise.models.checkpoint import open_checkpoint
from edgewise.tuning import checkpoints
from edgewise.tuning.judging import judge
from edgewise.tuning.lessons import Lesson, batch_of, drawn, split, tokens_at_most
from edgewise.tuning.loading import load_tunable
from edgewise.tuning.method import TuningMethod, WindowOrder
from edgewise.tuning.recipe import Recipe
from edgewise.tuning.training import Training

LESSONS = [Lesson((i, 40 + i, 3, 50 + i, 2), 3) for i in range(4, 16)]


@pytest.fixture
def begun(checkpoint):
    """A training as it begins."""

    def begin(**options):
        recipe = Recipe(**{"window": 2, "steps": 12, "batch": 3, "rate": 1e-2, **options})
        opened = open_checkpoint(str(checkpoint("llama")))
        windows = recipe.windows(opened.config.num_blocks)
        return Training(
            load_tunable(opened, "fp32", AdapterConfig(rank=4), windows), recipe, LESSONS
        )

    return begin


def losses(training, steps):
    return [training.step().loss for _ in range(steps)]


@pytest.mark.parametrize("method", TuningMethod)
def test_it_learns_what_it_is_given(begun, method):
    training = begun(method=method, steps=60)
    before = judge(training.model, LESSONS)
    losses(training, 60)
    after = judge(training.model, LESSONS)
    assert after["last"].loss < 0.7 * before["last"].loss
    assert after["confidence"].loss < before["confidence"].loss


@pytest.mark.parametrize("order", WindowOrder)
def test_one_that_was_killed_goes_on_with_the_same_losses(begun, tmp_path, order):
    whole = losses(begun(order=order), 12)
    first = begun(order=order)
    begins = losses(first, 7)
    checkpoints.save(first, tmp_path, "key")
    second = begun(order=order)
    second.resume(*checkpoints.kept_in(tmp_path, "key"))
    assert begins + losses(second, 5) == whole


def test_a_checkpoint_of_something_else_is_refused(begun, tmp_path):
    training = begun()
    checkpoints.save(training, tmp_path, "key")
    with pytest.raises(InputError, match="another model, data or options"):
        checkpoints.kept_in(tmp_path, "other")
    (tmp_path / checkpoints.FILE).write_bytes(b"\0" * 100)
    with pytest.raises(InputError, match="no checkpoint"):
        checkpoints.kept_in(tmp_path, "key")


def test_what_a_checkpoint_is_of(checkpoint):
    """Two models of one shape, two schemes, two recipes, two sets of lessons: each another key."""
    plain, other = (open_checkpoint(str(checkpoint(x))) for x in ("llama", "llama3-rope"))
    keys = {
        checkpoints.key_of(*what)
        for what in (
            (plain, "fp32", Recipe(), LESSONS),
            (other, "fp32", Recipe(), LESSONS),
            (plain, "bf16", Recipe(), LESSONS),
            (plain, "fp32", Recipe(seed=1), LESSONS),
            (plain, "fp32", Recipe(), LESSONS[1:]),
        )
    }
    assert len(keys) == 5
    assert checkpoints.key_of(plain, "fp32", Recipe(), list(LESSONS)) in keys


def test_a_checkpoint_that_cannot_be_written_says_so(begun, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match="cannot write"):
        checkpoints.save(begun(), tmp_path / "file", "key")


def test_a_loss_that_is_no_number_says_at_which_step_and_why(begun):
    training = begun(rate=1e37)
    with pytest.raises(NonFinite, match=r"at step \d+ .*a lower --rate, and another --out"):
        losses(training, 12)


def test_windows_come_by_each_batch_or_in_turn_each_for_its_share_or_by_lot():
    by_batch = [Recipe(steps=10).window_at(step, 3) for step in range(10)]
    assert by_batch == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    in_turn = Recipe(steps=10, order=WindowOrder.TURNS)
    assert [in_turn.window_at(step, 3) for step in range(10)] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    by_lot = Recipe(order=WindowOrder.RANDOM, steps=40)
    drawn_windows = [by_lot.window_at(step, 3) for step in range(40)]
    assert set(drawn_windows) == {0, 1, 2} and drawn_windows != sorted(drawn_windows)


@pytest.mark.parametrize("order", WindowOrder)
@pytest.mark.parametrize("begin", [0, 4])
def test_visits_are_all_steps_that_are_left(order, begin):
    recipe = Recipe(steps=10, order=order)
    steps = [
        (visit.first_step + i, index, visit.batch)
        for visit in recipe.visits(begin, 3)
        for i, index in enumerate(visit.windows)
    ]
    numbers = range(begin, 10)
    assert steps == [(x, recipe.window_at(x, 3), recipe.batch_at(x, 3)) for x in numbers]


def test_what_was_computed_for_the_window_before_is_what_would_be_computed_again(begun):
    """Step by step as from the first block on."""
    training, anew = begun(), begun()
    for _ in range(12):
        anew._reached = (-1, 0)
        assert training.step() == anew.step()


def test_every_lesson_comes_once_before_any_comes_again():
    seen = [x.tokens[0] for number in range(8) for x in drawn(LESSONS, 3, number, 5)]
    assert sorted(seen[:12]) == sorted(seen[12:]) == [x.tokens[0] for x in LESSONS]
    assert seen[:12] != seen[12:]


def test_held_out_lessons_are_others():
    learned, held_out = split(LESSONS, 0.25, 1)
    assert (len(learned), len(held_out)) == (9, 3)
    assert set(learned) | set(held_out) == set(LESSONS)
    with pytest.raises(InputError):
        split(LESSONS[:1], 0.5, 1)


def test_records_are_no_longer_than_a_model_takes():
    assert (tokens_at_most(None, 64), tokens_at_most(None, 8192)) == (64, 512)
    assert tokens_at_most(1024, 8192) == 1024


def test_padding_is_not_learned():
    batch = batch_of([Lesson((5, 6, 7, 8), 2), Lesson((9, 3), 1)])
    assert batch.targets.tolist() == [7, 8, 3]


def test_judged_right_is_what_greedy_words_would_be(begun):
    """Against the shard that answers in service, a token at a time."""
    from edgewise.models.cache import Segment
    from edgewise.models.shard import load_shard

    training = begun(method=TuningMethod.LORA, steps=1)
    shard = load_shard(training.model.embedding.origin.model)
    said = []
    for number, lesson in enumerate(LESSONS):
        prompt, answer = lesson.tokens[: lesson.first], lesson.tokens[lesson.first :]
        tokens, ours = list(prompt), []
        for _ in answer:
            logits = shard.forward(torch.tensor(tokens), [Segment(number, 0, len(tokens))])
            ours.append(int(logits[-1].argmax()))
            shard.drop(number)
            tokens.append(ours[-1])
        said.append(Lesson((*prompt, *ours), lesson.first))
    assert judge(training.model, said)["last"].right == 1.0
    wrong = [Lesson((*x.tokens[:-1], (x.tokens[-1] + 1) % 97), x.first) for x in said]
    assert judge(training.model, wrong)["last"].right == 0.0
    assert json.dumps(judge(training.model, said)["last"].loss)
