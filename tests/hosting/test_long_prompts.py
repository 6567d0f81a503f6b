"""What a host sees to while its engine reads a long prompt, piece by piece."""

from types import SimpleNamespace

import pytest

from edgewise.hosting import Host
from edgewise.models.checkpoint import open_checkpoint
from edgewise.runtime import limits
from edgewise.runtime.coordinator.admission import FIRST_COME
from edgewise.runtime.engine import Request, Token
from edgewise.runtime.events import Entered, Returned, Submitted
from edgewise.runtime.local import start_local
from edgewise.specs import Workload
from tests.runtime.conftest import cluster, plan_of, reference

MODEL = "demo"
CHUNK, PIECES = 16, 12
LONG = Request(tuple(5 + i % 200 for i in range(PIECES * CHUNK)), 2)
SHORT = Request((5, 6, 7), 2)


class Run:
    """Of a host that is asked LONG; `see` is called, in its thread, when the first piece is back.
    `happened` is all that its engine tells from its first plan on."""

    def __init__(self, see):
        self.see, self.happened = see, []
        work = Workload(len(LONG.prompt), 8, sequences=2)
        _, plan = plan_of(MODEL, ("laptop", open_checkpoint(MODEL).spec.num_layers))
        chooser = SimpleNamespace(
            anew=lambda: SimpleNamespace(plan=plan), admission=lambda plan: FIRST_COME,
            stage_seconds=lambda plan, sequences: [1.0],
        )  # fmt: skip
        overview = SimpleNamespace(
            say=print, chose=lambda chosen, why: self.host._engine.listen(self._listen),
            state=lambda status, *rest: SimpleNamespace(status=status),
        )  # fmt: skip
        with start_local(cluster(names=("laptop",))) as workers:
            made = workers, None, SimpleNamespace(links=()), chooser, work, overview
            self.host = Host(MODEL, *made)
            self.cancel = self.host.ask(LONG, lambda token: None)
            self.host.run()

    def _listen(self, event):
        self.happened.append(event)
        if isinstance(event, Returned) and self.of(Returned) == [event]:
            self.see(self)
            self.host.stop(drain=True)

    def of(self, kind):
        return [event for event in self.happened if isinstance(event, kind)]


@pytest.fixture(autouse=True)
def in_small_pieces(monkeypatch):
    monkeypatch.setattr(limits, "PREFILL_CHUNK", CHUNK)


def test_who_asks_in_the_middle_of_a_long_prompt_is_let_in_before_its_first_token():
    said = []
    run = Run(lambda run: run.host.ask(SHORT, lambda token: said.append(token.id)))
    _, short = run.of(Submitted)
    assert run.happened.index(short) < run.happened.index(run.of(Token)[0])
    assert said == reference(MODEL, SHORT)


def test_the_prompt_of_who_hangs_up_is_read_no_further():
    run = Run(lambda run: run.cancel())
    assert 1 <= len(run.of(Entered)) < PIECES / 2 and not run.of(Token)
