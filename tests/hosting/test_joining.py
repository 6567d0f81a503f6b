"""A device joins while requests are answered."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from edgewise.clusters import Device
from edgewise.hosting import Chooser, Host, Measured, Overview
from edgewise.models.checkpoint import open_checkpoint
from edgewise.profiling import Grid
from edgewise.runtime.engine import Request
from edgewise.runtime.live import start_live
from edgewise.specs import Workload
from tests.hosting.clusters import commands
from tests.runtime.conftest import reference
from tests.runtime.places import SECONDS

REQUEST, JOINED = Request((5, 6, 7), 40), "'there' joined"


class Answering:
    """A host on this machine's device, that is asked again and again until it is told to stop."""

    def __init__(self):
        spec, work = open_checkpoint("demo").spec, Workload(8, 40)
        self.workers, self.launcher, self.invitation = start_live(
            Device("here", 10**9), "127.0.0.1", 0
        )
        measured = Measured(self.workers, "demo", spec, Grid.around(work))
        chooser = Chooser(self.workers, measured, spec, work, "fp32")
        overview = Overview("demo", spec, on_event=lambda event: self._heard(event.text))
        self.host = Host("demo", self.workers, self.launcher, measured, chooser, work, overview)
        self.happened, self.answers = [], []
        self.planned, self.considered = threading.Event(), threading.Event()

    def _heard(self, text):
        if JOINED in self.happened:
            self.considered.set()
        self.happened.append(text)
        self.planned.set()

    def ask(self):
        tokens = []

        def on_token(token):
            self.happened.append(token)
            tokens.append(token.id)
            if token.finish is not None:
                self.answers.append(tokens)
                if not self.considered.is_set():
                    self.ask()

        self.host.ask(REQUEST, on_token)


@pytest.fixture
def answering(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # nothing is known of any device
    made = Answering()
    with made.workers:
        yield made


def test_requests_go_on_while_a_device_that_joined_is_timed(answering, tmp_path):
    """It is slow to be timed; before a plan is made with it, tokens have come all the time."""
    address = answering.launcher.address.removeprefix("tcp://")
    token = answering.invitation.token

    def join(started):
        try:
            answering.ask()
            assert answering.planned.wait(SECONDS)
            there = "--name", "there", "--memory", "1 GB", "--slowdown", "20"
            started.start("join", address, "--token", token, *there)
            assert answering.considered.wait(SECONDS)
        finally:
            answering.considered.set()
            answering.host.stop(drain=True)

    with commands(tmp_path) as started, ThreadPoolExecutor(1) as pool:
        joined = pool.submit(join, started)
        answering.host.run()
        joined.result()
    happened = answering.happened
    first = happened.index(JOINED)
    then = next(i for i in range(first + 1, len(happened)) if isinstance(happened[i], str))
    times = [token.at for token in happened[first + 1 : then]]
    assert len(times) > len(REQUEST.prompt) + REQUEST.max_tokens
    right = reference("demo", REQUEST)
    assert answering.answers and all(answer == right for answer in answering.answers)
