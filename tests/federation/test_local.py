import numpy as np
import pytest

from edgewise.adapters import Kind
from edgewise.adapters.files import read_adapter
from edgewise.errors import InputError
from edgewise.federating.algorithms import Algorithm
from edgewise.federating.exchanges import ADAPTER, Ask, AskedFor, Parcel
from edgewise.federating.rounds import PROXIMAL
from edgewise.federating.traffic import averaging_traffic
from edgewise.federation.learner import begin
from edgewise.federation.local import LocalClients, local_clients
from edgewise.federation.model import load_shared
from edgewise.federation.settings import FederatedSettings, rounds_of
from edgewise.federation.shared import arrays_of, save_shared
from edgewise.models.checkpoint import open_checkpoint
from edgewise.tuning.lessons import Lesson
from edgewise.tuning.loading import load_tunable
from edgewise.tuning.method import TuningMethod
from edgewise.tuning.recipe import Recipe
from edgewise.tuning.training import Training

BLOCKS, MATRICES, RANK = 4, 7, 4  # of the tiny model, and of its adapters


def lessons(first):
    """Of a kind of their own: which token answers which."""
    return [Lesson((i, 40 + i, 3, 50 + i, 2), 3) for i in range(first, first + 6)]


DATA = {"a": (lessons(4), lessons(4)), "b": (lessons(12), lessons(12)), "c": (lessons(20),) * 2}
UNION = [lesson for _, held_out in DATA.values() for lesson in held_out]


@pytest.fixture
def settings(checkpoint):
    def make(algorithm=Algorithm.EXACT, kind=Kind.PRIVATE, **options):
        model = str(checkpoint("llama"))
        usual = {"rank": RANK, "alpha": 8.0, "rounds": 4, "steps": 4, "batch": 3, "rate": 3e-2}
        return FederatedSettings(model, "fp32", algorithm, kind, **{**usual, **options})

    return make


def judged(settings, arrays, lessons=UNION):
    model = load_shared(settings)
    model.put(arrays)
    return model.judge(lessons)


def rounds(settings, data=DATA):
    clients = LocalClients(local_clients(settings, data))
    return list(rounds_of(settings, clients, begin(settings)))


@pytest.mark.parametrize(
    "algorithm", [x for x in Algorithm if x not in (Algorithm.FED_PSO, Algorithm.SWARMS)]
)
def test_together_they_learn_what_none_has(settings, algorithm):
    chosen = settings(algorithm, rounds=8)
    done = rounds(chosen)
    before, after = (judged(chosen, x).loss for x in (begin(chosen), done[-1].arrays))
    assert after < 0.8 * before
    alone = [judged(chosen, rounds(chosen, {x: DATA[x]})[-1].arrays).loss for x in DATA]
    assert after < min(alone)


@pytest.mark.parametrize("kind", Kind)
def test_one_client_does_what_training_does(settings, kind):
    chosen = settings(Algorithm.FED_AVG, kind, rounds=1, steps=6)
    (only,) = rounds(chosen, {"a": DATA["a"]})
    recipe = Recipe(TuningMethod.LORA, steps=6, batch=3, rate=3e-2, adapter=chosen.adapter)
    windows = recipe.windows(BLOCKS)
    model = load_tunable(open_checkpoint(chosen.model), "fp32", recipe.adapter, windows)
    model.exits.requires_grad_(False)
    training = Training(model, recipe, DATA["a"][0])
    for _ in range(6):
        training.step()
    trained = arrays_of(model.added)
    assert all(np.array_equal(only.arrays[name], x) for name, x in trained.items())


def test_m_alone_is_trained_and_sent(settings):
    chosen = settings()
    first = rounds(chosen)[0]
    assert len(first.arrays) == BLOCKS * MATRICES
    assert all(name.endswith(".middle") for name in first.arrays)
    said = averaging_traffic(BLOCKS * MATRICES * RANK**2, len(DATA))
    assert 0 <= first.traffic.up_bytes - said.up_bytes <= 16 * len(DATA)  # samples, loss
    model = load_shared(chosen)
    assert not any(x.requires_grad for x in model.tunable.exits.parameters())


def test_the_last_blocks_alone_can_be_adapted(settings):
    chosen = settings(blocks=2)
    arrays = rounds(chosen)[-1].arrays
    assert {name.split(".")[0] for name in arrays} == {"2", "3"}
    assert judged(chosen, arrays).loss < judged(chosen, begin(chosen)).loss
    with pytest.raises(InputError, match="has 4 blocks"):
        begin(settings(blocks=5))


def test_the_last_blocks_are_judged_on_what_the_others_compute(settings):
    chosen, whole = settings(blocks=2), settings()
    assert judged(chosen, begin(chosen)).loss == pytest.approx(
        judged(whole, begin(whole)).loss, rel=1e-5
    )


def test_fed_prox_draws_clients_to_where_they_began(settings):
    chosen = settings(Algorithm.FED_PROX, steps=8)
    learner = local_clients(chosen, DATA)["a"]
    start = begin(chosen)
    moved = []
    for proximal in (0.0, 0.3, 10.0):
        request = Ask(AskedFor.TRAIN, 1, Parcel({ADAPTER: start}, {PROXIMAL: proximal}))
        arrays = learner.answer(request).adapters[ADAPTER]
        moved.append(sum(float(np.square(x - start[name]).sum()) for name, x in arrays.items()))
    assert moved[0] > moved[1] > moved[2] > 0


@pytest.mark.parametrize("algorithm", [Algorithm.FED_PSO, Algorithm.SWARMS])
def test_swarms_find_better_ones(settings, algorithm):
    chosen = settings(algorithm, rounds=5)
    done = rounds(chosen)
    utilities = [x.utility for x in done]
    assert utilities == sorted(utilities) and utilities[-1] > utilities[0]
    assert judged(chosen, done[-1].arrays).loss < judged(chosen, begin(chosen)).loss


@pytest.mark.parametrize("kind", Kind)
def test_what_was_learned_is_an_adapter_for_the_model(settings, kind, tmp_path):
    chosen = settings(Algorithm.FED_AVG, kind)
    arrays, checkpoint = rounds(chosen)[-1].arrays, open_checkpoint(chosen.model)
    save_shared(tmp_path, arrays, checkpoint, chosen.adapter, 0)
    read, tensors = read_adapter(tmp_path, checkpoint.config, checkpoint.spec.digest)
    assert (read.kind, read.rank, read.seed) == (kind, RANK, chosen.seed)
    for name, array in arrays.items():
        assert np.array_equal(tensors[name].numpy(), array)


def test_settings_come_back_from_flowers_configuration(settings):
    chosen = settings(Algorithm.TRIMMED, leaders=True)
    assert FederatedSettings.from_config(chosen.to_config()) == chosen
    with pytest.raises(InputError, match="no settings"):
        FederatedSettings.from_config({"model": "x"})


def test_the_rate_falls_evenly_to_what_the_last_round_has(settings):
    falling = settings(rounds=3, rate=0.4, rate_falls_to=0.5)
    assert [falling.rate_in(number) for number in (1, 2, 3)] == pytest.approx([0.4, 0.3, 0.2])
    assert settings(rounds=1, rate_falls_to=0.5).rate_in(1) == settings().rate
    moved = []
    for share in (1.0, 0.0):
        first, last = rounds(settings(rounds=2, rate_falls_to=share))
        names = first.arrays
        moved.append(any((last.arrays[x] != first.arrays[x]).any() for x in names))
    assert moved == [True, False]


def test_settings_that_contradict_each_other_are_refused(settings):
    with pytest.raises(InputError, match="exact mean"):
        settings(Algorithm.EXACT, Kind.LORA)
    with pytest.raises(InputError, match="leader"):
        settings(Algorithm.FED_PSO, leaders=True)
    with pytest.raises(InputError, match="epsilon"):
        settings(Algorithm.SWARMS, epsilon=1.0)
