"""The same request gives the same tokens whatever the plan, the lanes, and what else is running;
where links round hidden states, whatever plan cuts the model at the same layers."""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgewise import kernels
from edgewise.adapters.served import open_adapter
from edgewise.models.cache import Segment
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.shard import load_shard
from edgewise.plans import Plan, Stage
from edgewise.runtime.coordinator.adapters import Adapters
from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.engine import Request
from edgewise.runtime.local import start_local
from edgewise.runtime.sampling import Past, Sampling, sample
from edgewise.schemes import Wire
from edgewise.specs import Workload
from tests.adapters.made import write_adapter
from tests.conftest import VOCABULARY
from tests.runtime.conftest import NAMES, cluster
from tests.seeds import THOROUGH

# torch promises no last bits: where it runs blocks, company may change them. The kernels run those
# of heads that fill a register.
FAMILIES = ("llama-wide-heads", "qwen3-wide-heads", "opt-wide-heads", "mistral-window-wide-heads")
SCHEMES = ("fp32", "bf16", "q8g32", "q4g32ad", "q4g32ds") if kernels.available() else ("fp32",)
LAYERS, CHUNK, CONTEXT = 6, 8, 48
START = tuple(range(20, 37))  # of prompts that share two pieces
NAMED = ("one", "two")  # adapters


@dataclass(frozen=True)
class Case:
    """`arrivals` and `cancels` are steps; before those of `moves` another plan is applied."""

    requests: list[Request]
    arrivals: list[int]
    cancels: dict[int, int]
    plan: list[tuple[str, int]]
    moves: dict[int, list[tuple[str, int]]]
    schemes: list[str]
    work: Workload


@dataclass(frozen=True)
class Turns:
    """A grammar: one token in three may follow, others at each place of the answer."""

    place: int = 0

    def matcher(self):
        return TurnsMatcher(self.place)


class TurnsMatcher:
    def __init__(self, place):
        self.place = place

    def tokens(self):
        return [token for token in range(VOCABULARY) if token % 3 == self.place % 3]

    def allowed(self):
        bits = sum(1 << token for token in self.tokens())
        return bits.to_bytes(-(-VOCABULARY // 8), "little")

    def accept(self, token):
        assert token in self.tokens()
        self.place += 1


def samplings():
    seeded = st.builds(
        Sampling,
        temperature=st.sampled_from([0.7, 1.3]),
        top_k=st.sampled_from([0, 20]),
        top_p=st.sampled_from([1.0, 0.9]),
        seed=st.integers(0, 9),
        min_p=st.sampled_from([0.0, 0.02]),
        repetition_penalty=st.sampled_from([1.0, 1.0, 1.4]),
        presence_penalty=st.sampled_from([0.0, 0.0, 0.8]),
        frequency_penalty=st.sampled_from([0.0, 0.0, 0.5]),
        logit_bias=st.sampled_from([(), ((40, 4.0), (41, -3.0))]),
    )
    return st.one_of(st.just(Sampling()), seeded)


def requests():
    tokens = st.lists(st.integers(3, 90), min_size=1, max_size=14)
    prompts = st.tuples(st.sampled_from([(), START]), tokens).map(lambda x: (*x[0], *x[1]))
    return st.builds(
        Request,
        prompts,
        st.integers(1, 16),
        samplings(),
        st.sampled_from([frozenset(), frozenset(range(30))]),
        st.sampled_from([None, None, 0, 3]),
        st.sampled_from([False, False, True]),
        st.sampled_from([None, None, Turns(), Turns(1)]),
        adapter=st.sampled_from(["", "", *NAMED]),
    )


@st.composite
def routes(draw):
    """Stages as (device, end) pairs, from the source on; devices may come again."""
    cuts = sorted(draw(st.sets(st.integers(1, LAYERS - 1), max_size=4)))
    devices = [NAMES[0], *(draw(st.sampled_from(NAMES)) for _ in cuts)]
    return list(zip(devices, [*cuts, LAYERS], strict=True))


@st.composite
def cases(draw):
    count = draw(st.integers(1, 6))
    sequences = draw(st.integers(1, 4))
    lanes = draw(st.integers(1, sequences))
    steps, wire = st.integers(0, 30), draw(st.sampled_from(Wire))
    moves = st.dictionaries(steps, routes(), max_size=2 if wire is Wire.FP32 else 0)
    return Case(
        [draw(requests()) for _ in range(count)],
        sorted(draw(steps) for _ in range(count)),
        draw(st.dictionaries(st.integers(0, count - 1), steps, max_size=1)),
        draw(routes()),
        draw(moves),
        [draw(st.sampled_from(SCHEMES)) for _ in range(LAYERS)],
        Workload(CONTEXT // 2, CONTEXT // 2, sequences, lanes, wire=wire),
    )


def plan_of(spec, route, schemes, wire=Wire.FP32):
    ends = [0, *(end for _, end in route)]
    stages = [
        Stage(device, a, b, tuple(schemes[a:b]))
        for (device, _), (a, b) in zip(route, pairwise(ends), strict=True)
    ]
    return Plan(spec.name, spec.digest, spec.num_layers, tuple(stages), wire=wire)


def alone(shard, request, chunk):
    """A request's tokens by the whole model: its prompt in pieces, then one by one. With them the
    log-probabilities of every position but the first."""
    shard.drop(0)
    adapter = ("", *NAMED).index(request.adapter)
    tokens, logprobs = list(request.prompt), []
    size, at = len(tokens), 0
    matcher = request.grammar.matcher() if request.grammar else None
    while len(tokens) < size + request.max_tokens:
        end = min((at // chunk + 1) * chunk, size) if at < size else at + 1
        segment = [Segment(0, at, end - at, adapter)]
        last = shard.forward(torch.tensor(tokens[at:end]), segment, [end - at - 1])
        rows = last
        if request.score_prompt and at < size:
            rows = shard.forward(torch.tensor(tokens[at:end]), segment)
        logprobs += [None] * (end - at - len(rows)) + list(rows.log_softmax(-1))
        at = end
        if at >= size:
            allowed = torch.zeros(VOCABULARY, dtype=torch.bool) if matcher else None
            if matcher:
                allowed[matcher.tokens()] = True
            past = Past(tokens, size)
            tokens.append(sample(last[0], request.sampling, at, past, allowed))
            if matcher:
                matcher.accept(tokens[-1])
            if tokens[-1] in request.stop_ids:
                break
    return tokens[size:], logprobs


def together(engine, case, plan):
    """Every request's tokens, and which were cancelled."""
    numbers, answers, step = [], {}, 0
    while True:
        while len(numbers) < len(case.requests) and case.arrivals[len(numbers)] <= step:
            numbers.append(engine.submit(case.requests[len(numbers)]))
            answers[numbers[-1]] = []
        for index, at in case.cancels.items():
            if at == step and index < len(numbers):
                engine.cancel(numbers[index])
        if step in case.moves:
            engine.apply(plan(case.moves[step]))
        tokens = engine.step()
        if not tokens and len(numbers) == len(case.requests):
            return list(answers.values())
        for token in tokens:
            assert token.finish != "error", token.error
            answers[token.request].append(token)
        step += 1


def check_scores(request, answer, logprobs):
    """Scores by the whole model's distributions: of the prompt, with its first token, and of the
    answer."""
    if not answer:  # cancelled before
        return
    prompt = list(answer[0].prompt)
    assert [one.token for one in prompt] == list(request.prompt[1:] if request.score_prompt else ())
    assert not any(token.prompt for token in answer[1:])
    scores = [*zip(range(1, len(prompt) + 1), prompt, strict=True)]
    for position, token in enumerate(answer, len(request.prompt)):
        assert (token.score is None) == (request.top is None)
        if token.score is not None:
            assert token.score.token == token.id
            scores.append((position, token.score))
    for position, score in scores:
        expected = logprobs[position - 1]
        assert score.logprob == pytest.approx(float(expected[score.token]), abs=1e-4)
        assert len(score.top) == (request.top or 0)
        values = expected.sort(descending=True).values[: len(score.top)].tolist()
        assert [value for _, value in score.top] == pytest.approx(values, abs=1e-4)
        for token, value in score.top:
            assert value == pytest.approx(float(expected[token]), abs=1e-4)


@pytest.fixture(scope="module")
def devices():
    with start_local(cluster()) as running:
        yield running


@pytest.fixture(scope="module")
def adapters(checkpoint, tmp_path_factory):
    """Those of a family, by name."""
    folder = tmp_path_factory.mktemp("adapters")

    @cache
    def get(family):
        model, named = checkpoint(family), {}
        opened = open_checkpoint(str(model))
        for seed, name in enumerate(NAMED):
            path = write_adapter(folder / f"{family}-{name}", model, rank=3, seed=seed, size=0.3)
            named[name] = open_adapter(path, opened.config, opened.spec.digest)
        return named

    return get


@settings(
    max_examples=2000 if THOROUGH else 120,
    deadline=None,
    derandomize=not THOROUGH,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.sampled_from(FAMILIES), cases())
def test_the_same_request_gives_the_same_tokens(
    devices, checkpoint, adapters, monkeypatch, family, case
):
    monkeypatch.setattr("edgewise.runtime.limits.PREFILL_CHUNK", CHUNK)
    model = checkpoint(family)
    spec = open_checkpoint(model).spec

    def plan(route):
        return plan_of(spec, route, case.schemes, case.work.wire)

    held = Adapters(devices, 10**6, adapters(family))
    engine = Coordinator(devices, str(model), plan(case.plan), case.work, adapters=held)
    answers = together(engine, case, plan)
    whole = load_shard(model, schemes=case.schemes, rounded=plan(case.plan).rounded)
    for number, adapter in enumerate(adapters(family).values(), 1):
        for block, added in enumerate(adapter.blocks):
            whole.adapters.hold(number, block, added)
    for number, (request, answer) in enumerate(zip(case.requests, answers, strict=True)):
        expected, logprobs = alone(whole, request, CHUNK)
        tokens = [token.id for token in answer]
        if number in case.cancels:
            assert tokens == expected[: len(tokens)]
        else:
            assert tokens == expected
        check_scores(request, answer, logprobs)


@pytest.mark.parametrize("wire", [Wire.BF16, Wire.INT8])
def test_a_plan_with_the_same_cuts_goes_on_with_the_same_tokens(devices, checkpoint, wire):
    model = checkpoint("qwen3-wide-heads")
    spec, work = open_checkpoint(model).spec, Workload(24, 24, wire=wire)
    routes = [
        [("laptop", 2), ("laptop", 3), ("jetson", 4), ("pi", LAYERS)],
        [("laptop", 3), ("pi", 4), ("jetson", 5), ("jetson", LAYERS)],
        [("laptop", 1), ("pi", LAYERS)],
    ]
    plans = [plan_of(spec, route, ["fp32"] * LAYERS, wire) for route in routes]
    request = Request(START, 24)
    engine = Coordinator(devices, str(model), plans[0], work)
    case = Case([request], [0], {}, routes[0], {9: routes[1]}, [], work)
    answers = together(engine, case, lambda route: plans[routes.index(route)])
    assert plans[0].rounded == plans[1].rounded != plans[2].rounded
    expected, _ = alone(load_shard(model, rounded=plans[0].rounded), request, 256)
    assert [token.id for token in answers[0]] == expected


def test_a_real_model_gives_the_same_tokens(devices, real_model):
    """Prompts that share a piece, alone and in company, over two plans."""
    spec = open_checkpoint(real_model).spec
    start = tuple(range(100, 370))
    requests = [
        Request((*start, 500, 501), 8),
        Request((*start, 600), 8, Sampling(temperature=1.0, seed=3)),
        Request((700, 701, 702), 12),
        Request((800, 801), 12, Sampling(temperature=0.8, top_k=40, seed=5)),
    ]
    schemes = ["stored"] * spec.num_layers
    routes = [[("laptop", 9), ("jetson", 20), ("pi", 32)], [("laptop", 15), ("pi", 32)]]
    work = Workload(290, 16, sequences=3, micro_batches=2)
    case = Case(requests, [0, 0, 2, 6], {}, routes[0], {9: routes[1]}, schemes, work)
    engine = Coordinator(devices, str(real_model), plan_of(spec, case.plan, schemes), case.work)
    answers = together(engine, case, lambda route: plan_of(spec, route, schemes))
    whole = load_shard(real_model, schemes="stored", context=400)
    tokens = [[token.id for token in answer] for answer in answers]
    assert tokens == [alone(whole, request, 256)[0] for request in requests]
