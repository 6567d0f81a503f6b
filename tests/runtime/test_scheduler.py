"""The scheduler in front of a pipeline that computes tokens from what its caches hold."""

from collections import deque
from dataclasses import dataclass, replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.errors import PromptError
from edgewise.runtime.coordinator.scheduler import Scheduler
from edgewise.runtime.engine import Request
from edgewise.runtime.limits import Limits
from edgewise.runtime.sampling import Sampling
from tests.seeds import THOROUGH

LIMITS = Limits(sequences=4, lanes=1, cache_tokens=400, context=100, chunk=8, share=8, page=4)
VOCABULARY = 5
ANY_PIECE, ONE_BY_ONE = 1, 2  # numbers: their hashes are the same in every process


# The pipeline.


def hidden(inputs, way):
    """What a stage makes of the last of its inputs: of all of them, of the place it is at, and of
    the way in which it was computed."""
    return hash((tuple(inputs), len(inputs), way))


def next_token(state, sampling, position):
    return hash((state, sampling.seed, position)) % VOCABULARY


def alone(request, limits, stages, cuts=True):
    """A request's tokens by itself: its prompt cut at multiples of `chunk`, then one by one."""
    tokens, prompt = list(request.prompt), len(request.prompt)
    while len(tokens) < prompt + request.max_tokens:
        states = tokens
        for _ in range(stages):
            states = [
                hidden(states[: at + 1], way_of(at, prompt, limits.chunk, cuts))
                for at in range(len(states))
            ]
        tokens.append(next_token(states[-1], request.sampling, len(tokens)))
        if tokens[-1] in request.stop_ids:
            break
    return tokens[prompt:]


def way_of(at, prompt, chunk, cuts):
    """The piece of a prompt that position `at` is in, or, where cuts do not matter, that it is in
    one at all; another way in an answer."""
    first = at // chunk * chunk
    piece = (first, min(first + chunk, prompt)) if cuts else ANY_PIECE
    return piece if at < prompt else ONE_BY_ONE


class Pipeline:
    """Stages with a queue and caches each. They compute in any order of stages; a queue keeps its
    own. A cache holds what came in, by request. With `cuts`, all of a piece depends on its cuts."""

    def __init__(self, stages, limits, requests, cuts):
        self.requests, self.cuts = requests, cuts
        self.limits = limits
        self.queues = [deque() for _ in range(stages)]
        self.caches = [{} for _ in range(stages)]
        self.computed = 0  # tokens through the first stage

    def enter(self, batch):
        self.queues[0].append((batch, [list(row.tokens) for row in batch.rows]))

    def busy(self):
        return [number for number, queue in enumerate(self.queues) if queue]

    def advance(self, stage):
        """The batch that left the last stage and its tokens by request, or None."""
        batch, inputs = self.queues[stage].popleft()
        cache = self.caches[stage]
        for number in batch.dropped:
            del cache[number]  # held, and dropped once
        outputs = [
            self.row(cache, row, states) for row, states in zip(batch.rows, inputs, strict=True)
        ]
        if stage == 0:
            self.computed += sum(len(row.tokens) for row in batch.rows)
        self.check_memory(cache)
        if stage + 1 < len(self.queues):
            self.queues[stage + 1].append((batch, outputs))
            return None
        return batch, {
            row.request: next_token(states[-1], row.sampling, row.start + len(row.tokens))
            for row, states in zip(batch.rows, outputs, strict=True)
            if row.sampling is not None
        }

    def row(self, cache, row, states):
        if row.prefix is not None:
            assert row.request not in cache and row.prefix[1] == row.start
            assert len(cache[row.prefix[0]]) >= row.start
            cache[row.request] = cache[row.prefix[0]][: row.start]
        mine = cache.setdefault(row.request, [])
        assert len(mine) == row.start
        mine += states
        end, prompt = row.start + len(row.tokens), len(self.requests[row.request].prompt)
        if row.start < prompt:
            assert end <= prompt
            way = (row.start, end) if self.cuts else ANY_PIECE
        else:
            assert len(row.tokens) <= self.limits.replay_chunk
            way = ONE_BY_ONE
        return [hidden(mine[: at + 1], way) for at in range(row.start, end)]

    def check_memory(self, cache):
        """Never over-committed, whatever the scheduler's books say."""
        pages = sum(-(-len(tokens) // self.limits.page) for tokens in cache.values())
        assert len(cache) <= self.limits.sequences
        assert pages <= self.limits.cache_tokens // self.limits.page

    def clear(self, limits):
        self.limits = limits
        for queue, cache in zip(self.queues, self.caches, strict=True):
            queue.clear()
            cache.clear()


class Service:
    """An engine's loop: asks for batches, checks them, and tells what comes back."""

    def __init__(self, limits, stages=1, cuts=True):
        self.scheduler = Scheduler(limits)
        self.limits = limits
        self.requests, self.answers, self.finished = {}, {}, {}
        self.pipeline = Pipeline(stages, limits, self.requests, cuts)
        self.flying, self.batches, self.returns = [], [], 0
        self.round_over = False

    def submit(self, *requests):
        for request in requests:
            number = len(self.requests)
            self.requests[number], self.answers[number] = request, []
            self.scheduler.submit(number, request)
        return number

    def cancel(self, number):
        self.scheduler.cancel(number)
        self.finished.setdefault(number, "cancelled")

    def restart(self, limits):
        self.limits = limits
        self.flying.clear()
        self.round_over = False
        self.pipeline.clear(limits)
        for number in self.scheduler.restart(limits):
            self.finished[number] = "refused"

    def fill(self):
        while (batch := self.scheduler.next()) is not None:
            self.check(batch)
            self.flying.append(batch)
            self.batches.append(batch)
            self.pipeline.enter(batch)

    def answers_in(self, batch):
        return [row for row in batch.rows if row.start >= len(self.requests[row.request].prompt)]

    def check(self, batch):
        limits = self.limits
        assert batch.rows and all(row.tokens for row in batch.rows)
        assert not self.round_over
        assert len(self.flying) < max(limits.lanes + 1, limits.stages)
        assert len({row.request for row in batch.rows}) == len(batch.rows)
        answers = self.answers_in(batch)
        prompts = [row for row in batch.rows if row not in answers]
        assert len(prompts) <= 1
        assert all(len(row.tokens) <= limits.chunk for row in prompts)
        most = -(-limits.sequences // limits.lanes)
        assert sum(row.sampling is not None for row in batch.rows) <= most
        if answers:
            assert sum(bool(self.answers_in(other)) for other in self.flying) < limits.lanes
        for row in batch.rows:
            if row.prefix is not None:
                assert row.start % limits.share == 0 < row.start
                source = [r for b in self.flying for r in b.rows if r.request == row.prefix[0]]
                assert all(ahead.start >= row.start for ahead in source)  # what is copied is back
            known = [*self.requests[row.request].prompt, *self.answers[row.request]]
            end = row.start + len(row.tokens)
            assert list(row.tokens) == known[row.start : end]
            assert (row.sampling is not None) == (end == len(known))

    def advance(self, stage):
        """Let a stage compute. The batch that is through, if one is."""
        left = self.pipeline.advance(stage)
        if left is None:
            return None
        batch, tokens = left
        for number, token in tokens.items():
            gone = number in self.finished
            finish = self.scheduler.sampled(number, token)
            if gone:
                assert finish is None
                continue
            self.answers[number].append(token)
            if finish is not None:
                self.finished[number] = finish
        assert self.flying.pop(0) is batch
        self.scheduler.returned(batch)
        self.returns += 1
        self.round_over = self.limits.barrier and bool(self.flying)
        return batch

    def turn(self):
        """Let in what may enter; then the oldest batch goes through all that it has left."""
        self.fill()
        while self.advance(self.pipeline.busy()[-1]) is None:
            pass

    def run(self, most=10_000):
        """To the end of all requests, within so many batches."""
        began = self.returns
        while len(self.finished) < len(self.requests) or self.flying:
            self.turn()
            assert self.returns - began <= most
        self.fill()
        assert not self.flying and self.scheduler.running == self.scheduler.waiting == 0

    def check_answers(self, limits):
        for number, request in self.requests.items():
            expected = alone(request, limits, len(self.pipeline.queues), self.pipeline.cuts)
            if self.finished[number] in ("cancelled", "refused"):
                assert self.answers[number] == expected[: len(self.answers[number])]
            else:
                assert self.answers[number] == expected
                ended = expected[-1] in request.stop_ids
                assert self.finished[number] == ("stop" if ended else "length")


def prompt(size, seed=0):
    return tuple(Random(seed).choices(range(VOCABULARY), k=size))


def long(seed, size=80):
    return Request(prompt(size, seed), 4)


# Anything at any time.


@st.composite
def limits_for_all(draw, context=40):
    """Limits under which a request of `context` tokens always fits."""
    sequences, page = draw(st.integers(1, 5)), draw(st.sampled_from([1, 4]))
    chunk = draw(st.sampled_from([4, 8]))
    least = -(-context // page) * page
    return Limits(
        sequences=sequences,
        lanes=draw(st.integers(1, sequences)),
        cache_tokens=draw(st.integers(least, least * sequences)),
        context=context,
        stages=draw(st.integers(1, 3)),
        chunk=chunk,
        replay_chunk=draw(st.integers(1, 3)),
        share=chunk,
        page=page,
        barrier=draw(st.booleans()),
    )


@st.composite
def requests(draw):
    """Prompts of a few system prompts and a few tokens of their own."""
    system = prompt(draw(st.integers(0, 20)), draw(st.integers(0, 1)))
    own = tuple(draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=8)))
    stop_ids = frozenset(draw(st.sets(st.integers(0, VOCABULARY - 1), max_size=1)))
    sampling = Sampling(temperature=1.0, seed=draw(st.integers(0, 3)))
    return Request(system + own, draw(st.integers(1, 10)), sampling, stop_ids)


@dataclass(frozen=True)
class Submit:
    request: Request


@dataclass(frozen=True)
class Cancel:
    number: int


@dataclass(frozen=True)
class Restart:
    sequences: int


ACTIONS = st.lists(
    st.one_of(
        st.builds(Submit, requests()),
        st.builds(Submit, requests()),
        st.builds(Cancel, st.integers(0, 9)),
        st.builds(Restart, st.integers(1, 5)),
        st.integers(1, 12),  # so many turns of some stages
    ),
    max_size=24,
)


def act(service, action, random):
    if isinstance(action, Submit):
        service.submit(action.request)
    elif isinstance(action, Cancel) and action.number in service.requests:
        service.cancel(action.number)
    elif isinstance(action, Restart):
        most = max(action.sequences, service.limits.lanes)
        service.restart(replace(service.limits, sequences=most))
    elif isinstance(action, int):
        for _ in range(action):
            service.fill()
            if busy := service.pipeline.busy():
                service.advance(random.choice(busy))


@settings(max_examples=2000 if THOROUGH else 200, deadline=None)
@given(limits_for_all(), ACTIONS, st.integers(0, 2**16), st.booleans())
def test_every_request_gets_the_tokens_it_gets_alone(limits, actions, seed, by_page):
    if by_page:  # pieces of prompts may be cut once more then; all else holds
        limits = replace(limits, share=4 if limits.page == 4 else 1)
    service = Service(limits, stages=limits.stages, cuts=not by_page)
    random = Random(seed)
    for action in actions:
        act(service, action, random)
    service.run()
    service.check_answers(limits)


# What enters together.


def test_several_lanes_share_the_requests():
    service = Service(replace(LIMITS, sequences=8, lanes=2, cache_tokens=800), stages=2)
    service.submit(*[Request(prompt(4, seed), 40) for seed in range(8)])
    for _ in range(30):
        service.turn()
    assert [len(batch.rows) for batch in service.batches[-10:]] == [4] * 10
    assert {row.request for batch in service.batches[-2:] for row in batch.rows} == set(range(8))


def test_few_requests_share_the_lanes():
    service = Service(replace(LIMITS, sequences=8, lanes=2, cache_tokens=800), stages=2)
    service.submit(*[Request(prompt(4, seed), 40) for seed in range(4)])
    for _ in range(20):
        service.turn()
    assert [len(batch.rows) for batch in service.batches[-6:]] == [2] * 6


def test_a_prompt_follows_itself_into_the_pipeline():
    service = Service(replace(LIMITS, stages=3), stages=3)
    service.submit(long(0))
    service.fill()
    starts = [row.start for batch in service.flying for row in batch.rows]
    assert starts == [0, 8, 16]


def test_prompts_leave_the_lanes_to_answers():
    service = Service(replace(LIMITS, stages=3), stages=3)
    service.submit(Request(prompt(4), 40))
    service.turn()
    service.submit(long(1), long(2))
    began = len(service.answers[0])
    for _ in range(20):
        service.turn()
    assert len(service.answers[0]) - began >= 10  # every other batch has one of its tokens


def test_prompts_and_answers_enter_together():
    service = Service(LIMITS)
    service.submit(Request(prompt(4), 40))
    service.turn()
    service.submit(long(1))
    service.fill()
    assert [(row.request, len(row.tokens)) for row in service.flying[0].rows] == [(0, 1), (1, 8)]


def test_with_a_barrier_rounds_do_not_overlap():
    service = Service(replace(LIMITS, lanes=2, barrier=True), stages=2)
    service.submit(*[Request(prompt(4, seed), 20) for seed in range(4)])
    for _ in range(6):
        service.turn()
    while service.flying:
        service.turn()
    service.fill()
    assert [len(batch.rows) for batch in service.flying] == [2, 2]
    service.run()


# Memory.


def test_a_request_that_never_fits_is_refused_with_the_numbers():
    scheduler = Scheduler(replace(LIMITS, cache_tokens=60))
    with pytest.raises(PromptError, match=r"90 \+ 20 tokens, .* 100 a request; ask for 10 less"):
        scheduler.submit(0, Request(prompt(90), 20))
    with pytest.raises(PromptError, match=r"60 \+ 1 tokens, 16 pages of 4, but the cache has 15"):
        scheduler.submit(0, Request(prompt(60), 1))
    scheduler.submit(0, Request(prompt(59), 1))
    assert scheduler.waiting == 1


def test_who_does_not_fit_waits_and_is_not_overtaken():
    service = Service(replace(LIMITS, cache_tokens=100))
    service.submit(Request(prompt(56), 4), Request(prompt(50), 4), Request(prompt(4), 1))
    service.turn()
    assert (service.scheduler.running, service.scheduler.waiting) == (1, 2)
    service.run()
    first = {}
    for at, batch in enumerate(service.batches):
        for row in batch.rows:
            first.setdefault(row.request, at)
    assert sorted(first, key=first.get) == [0, 1, 2]


def test_a_cancelled_request_makes_room():
    service = Service(replace(LIMITS, sequences=1))
    service.submit(Request(prompt(50), 40), Request(prompt(4, 1), 2))
    for _ in range(3):
        service.turn()
    service.cancel(0)
    service.run(most=6)
    dropping = next(batch for batch in service.batches if batch.dropped)
    assert dropping.dropped == (0,) and dropping.rows[0].request == 1
    service.check_answers(LIMITS)


def test_a_cancelled_request_that_never_entered_is_not_dropped():
    service = Service(LIMITS)
    service.submit(long(0), long(1), long(2))
    service.fill()
    service.cancel(2)
    assert (service.scheduler.running, service.scheduler.waiting) == (2, 0)
    service.run()
    assert not any(batch.dropped for batch in service.batches)


def test_what_a_failed_batch_was_to_drop_is_dropped_by_the_next():
    scheduler = Scheduler(replace(LIMITS, sequences=2))
    for number in range(2):
        scheduler.submit(number, Request(prompt(4, number), 1))
        batch = scheduler.next()
        scheduler.sampled(number, 1)
        scheduler.returned(batch)
    scheduler.submit(2, Request(prompt(4, 2), 1))
    failing = scheduler.next()
    assert failing.dropped == (0,)
    scheduler.cancel(2)
    scheduler.returned(failing, failed=True)
    scheduler.submit(3, Request(prompt(4, 3), 1))
    assert scheduler.next().dropped == (0, 2)


# Prefixes.


def prefixes(service):
    return {
        row.request: row.prefix
        for batch in service.batches
        for row in batch.rows
        if row.prefix is not None
    }


def test_a_finished_request_leaves_its_prefix():
    service = Service(LIMITS, stages=2)
    system = prompt(20)
    service.submit(Request((*system, 1), 3))
    service.run()
    service.submit(Request((*system, 2, 3), 3))
    service.run()
    assert prefixes(service) == {1: (0, 16)}
    service.check_answers(LIMITS)


def test_a_prefix_is_computed_once_though_all_come_at_once():
    service = Service(LIMITS, stages=2)
    service.submit(*[Request((*prompt(32), number), 2) for number in range(4)])
    service.run()
    assert set(prefixes(service)) == {1, 2, 3}
    assert service.pipeline.computed == 32 + 4 * 2  # a token of each prompt, and of each answer
    service.check_answers(LIMITS)


def test_the_whole_prompt_is_never_taken():
    service = Service(LIMITS)
    service.submit(Request(prompt(16), 2))
    service.run()
    service.submit(Request(prompt(16), 2))
    service.run()
    assert prefixes(service) == {1: (0, 8)}
    service.check_answers(LIMITS)


def test_nobody_copies_what_is_not_back_yet():
    service = Service(replace(LIMITS, stages=3), stages=3)
    service.submit(Request(prompt(20), 2))
    service.fill()
    assert [row.start for batch in service.flying for row in batch.rows] == [0, 8, 16]
    service.submit(Request(prompt(20), 2))
    service.turn()
    service.fill()
    assert all(row.request == 0 for batch in service.flying for row in batch.rows)
    service.run()
    assert prefixes(service) == {1: (0, 16)}


def test_who_waits_for_a_prefix_goes_on_when_its_owner_is_cancelled():
    service = Service(LIMITS)
    service.submit(Request(prompt(40), 2), Request(prompt(40), 2))
    service.turn()
    service.cancel(0)
    service.run()
    service.check_answers(LIMITS)
    assert service.finished[1] == "length"


def test_the_prefix_used_last_is_kept_longest():
    service = Service(replace(LIMITS, sequences=3))
    for seed in (0, 1, 0, 2):  # the third uses the first; the fourth needs the second's room
        service.submit(Request(prompt(17, seed), 2))
        service.run()
    assert [batch.dropped for batch in service.batches if batch.dropped] == [(1,)]
    service.submit(Request(prompt(17, 0), 2))
    service.run()
    assert prefixes(service).keys() == {2, 4}
    service.check_answers(LIMITS)


def test_cuts_are_the_same_behind_a_prefix():
    service = Service(replace(LIMITS, share=4), cuts=False)
    service.submit(Request(prompt(13), 1))
    service.run()
    service.submit(Request((*prompt(13), *prompt(10, 1)), 1))
    service.run()
    ends = [row.start + len(row.tokens) for batch in service.batches[2:] for row in batch.rows]
    assert prefixes(service) == {1: (0, 12)} and ends == [16, 23]


# Restarts.


def test_after_a_restart_answers_go_on_as_if_undisturbed():
    service = Service(replace(LIMITS, replay_chunk=4), stages=2)
    service.submit(*[Request(prompt(20, seed), 30) for seed in range(3)])
    for _ in range(30):
        service.turn()
    had = {number: len(tokens) for number, tokens in service.answers.items()}
    assert min(had.values()) > 4
    at = len(service.batches)
    service.restart(service.limits)
    service.run()
    again = [row for batch in service.batches[at:] for row in batch.rows if row.request == 0]
    replayed = [len(row.tokens) for row in again if 20 <= row.start < 20 + had[0] - 1]
    assert [len(row.tokens) for row in again[:3]] == [8, 8, 4]
    assert max(replayed) == 4 and sum(replayed) >= had[0] - 1
    service.check_answers(LIMITS)


def test_after_a_restart_nobody_is_overtaken():
    service = Service(replace(LIMITS, sequences=2), stages=2)
    service.submit(*[Request(prompt(20, seed), 5) for seed in range(4)])
    for _ in range(4):
        service.turn()
    service.restart(replace(LIMITS, sequences=1))
    at = len(service.batches)
    service.run()
    order = dict.fromkeys(row.request for batch in service.batches[at:] for row in batch.rows)
    assert list(order) == [0, 1, 2, 3]
    service.check_answers(LIMITS)


def test_a_restart_says_who_can_never_fit_any_more():
    service = Service(LIMITS)
    service.submit(Request(prompt(60), 10), Request(prompt(10), 10))
    service.turn()
    refused = service.scheduler.restart(replace(LIMITS, cache_tokens=40))
    assert list(refused) == [0] and "18 pages of 4, but the cache has 10" in str(refused[0])
    assert service.scheduler.waiting == 1


# Fairness.


@pytest.mark.parametrize("lanes", [1, 2, 4])
@pytest.mark.parametrize("barrier", [False, True])
def test_a_short_request_ends_within_bounds_in_a_flood_of_long_prompts(lanes, barrier):
    """Once it runs: at most one piece of each other prompt goes first, and each of its tokens waits
    for what is in flight, once to enter and once to return."""
    limits = replace(LIMITS, lanes=lanes, stages=3, barrier=barrier)
    service = Service(limits, stages=3)
    service.submit(*[long(seed) for seed in range(3)])
    for _ in range(3):
        service.turn()
    short = service.submit(Request(prompt(4, 99), 5))
    began = service.returns
    while short not in service.finished:
        service.submit(long(service.returns))
        service.turn()
    assert service.returns - began <= limits.sequences + 2 * 5 * limits.places


def test_long_answers_do_not_starve_while_single_tokens_come_and_go():
    limits = replace(LIMITS, lanes=4, stages=4)
    service = Service(limits, stages=4)
    service.submit(Request(prompt(4), 20))
    for number in range(2 * 20 * limits.places):
        service.submit(Request(prompt(30, number), 1))
        service.turn()
    assert service.finished[0] == "length"


def test_waiting_requests_are_served_in_their_order():
    service = Service(replace(LIMITS, sequences=1))
    service.submit(*[Request(prompt(9, seed), 2) for seed in range(5)])
    service.run()
    assert list(service.finished) == [0, 1, 2, 3, 4]
