"""A cluster that devices join and leave, as processes on this machine."""

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from edgewise.clusters import Device
from edgewise.demo.questions import draw_questions, prompt
from edgewise.errors import InputError
from edgewise.runtime.launchers.invitation import Invitation
from edgewise.runtime.live import start_on_ray
from edgewise.runtime.transport.zeromq import Keys
from tests.hosting.clusters import PATIENCE, ask, get
from tests.runtime.places import NODES, RayCluster, is_running, only_ray_cluster, until, worker_pids

QUESTION = draw_questions(3, 1)[0]
TEXT = prompt(QUESTION.context, QUESTION.question)
HERE = ("--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--name", "here")
SLOW = ("--slowdown", "20")  # an answer takes seconds
SMALL = ("--memory", "9 MB", "--scheme", "fp32", "--prompt-tokens", "64", "--new-tokens", "64")


def workers_of(running):
    return psutil.Process(running.process.pid).children(recursive=True)


def state_of(up):
    return get(str(up.wait_for("url")["url"]).removesuffix("/v1") + "/api/state")


def test_one_machine_answers_and_leaves_nothing(started):
    up = started.start("up", "demo", *HERE)
    assert ask(up, TEXT, patience=PATIENCE).strip() == QUESTION.answer
    state = state_of(up)
    assert state["ready"] and [x["layers"] for x in state["devices"]] == [[[0, 14]]]
    workers = workers_of(up)
    assert len(workers) == 2  # one waits in case the other dies
    assert up.end(signal.SIGINT) == 0
    assert not any(worker.is_running() for worker in workers)


def refusal(up):
    """The status and text that say no to a request, when to come back, and how long that took."""
    url = str(up.wait_for("url")["url"])
    began = time.monotonic()
    asked = urllib.request.Request(
        f"{url}/completions", b'{"prompt": "a"}', {"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(asked, timeout=60)
    with refused.value as error:
        pause, said = float(error.headers["Retry-After"]), error.read().decode()
    return error.code, said, pause, time.monotonic() - began


def is_ready(up):
    url = str(up.wait_for("url")["url"]).removesuffix("/v1") + "/ready"
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status == 200
    except urllib.error.HTTPError as error:
        with error:
            assert error.code == 503
        return False


def test_who_comes_too_early_is_told_to_come_back(started):
    up = started.start("up", "demo", *HERE, *SMALL)
    up.wait_for("text", "waiting for devices")
    code, said, pause, seconds = refusal(up)
    assert code == 503 and "waiting for devices" in said
    assert pause > 0 and seconds < 5 and not is_ready(up)
    started.join(up, "--name", "there")
    assert (
        ask(up, TEXT, patience=PATIENCE).strip() == QUESTION.answer
    )  # which comes back until it is answered
    assert is_ready(up)


@contextlib.contextmanager
def under_way(up, answers):
    """An answer that comes into `answers`: asked once, when there is a plan, and begun."""
    assert until(lambda: is_ready(up))
    client = threading.Thread(target=lambda: answers.append(ask(up, TEXT, 60)))
    client.start()
    try:
        assert until(lambda: state_of(up)["running"]) and not answers
        yield
    finally:
        client.join(90)


def test_who_has_come_waits_for_devices_and_who_comes_does_not(started):
    """The only device that can hold the model leaves in the middle of an answer."""
    up = started.start("up", "demo", *HERE, *SMALL)
    there = started.join(up, "--name", "there", *SLOW)
    expected, answers = ask(up, TEXT, 60, patience=PATIENCE), []
    with under_way(up, answers):
        worker = workers_of(there)[0]
        there.process.kill()
        worker.kill()
        assert until(lambda: not is_ready(up), 60)
        code, _, _, seconds = refusal(up)
        assert code == 503 and seconds < 5 and not is_ready(up) and not answers
        started.join(up, "--name", "another")
    assert answers == [expected]


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_device_dies_in_the_middle_and_another_takes_over(started, how):
    """`up` cannot hold the model; one of two others can."""
    up = started.start("up", "demo", *HERE, *SMALL)
    expected = None
    agents = {}
    for name in ("a", "b"):
        agents[name] = started.join(up, "--name", name, *SLOW)
        agents[name].wait_for("event", "joined")
        up.wait_for("text", f"'{name}' joined")
        expected = expected or ask(up, TEXT, 60, patience=PATIENCE)
    answers = []
    with under_way(up, answers):
        devices = state_of(up)["devices"]
        busy = next(x["name"] for x in devices if x["layers"] and x["name"] in agents)
        (worker,) = workers_of(agents[busy])
        os.kill(worker.pid, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
    assert answers == [expected]
    up.wait_for("text", "without " + busy)
    up.wait_for("text", f"'{busy}' joined", 30)  # its agent is still there, and offers it again


def throw_rubbish(address):
    """Random bytes, the beginning of an honest greeting (ZMTP), a connection that says nothing."""
    host, port = address.split(":")
    draw = random.Random(0)
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00CURVE"
    for said in (*(draw.randbytes(size) for size in (1, 64, 10_000, 500_000)), greeting, b""):
        # It may hang up in the middle.
        with (
            contextlib.suppress(BrokenPipeError, ConnectionResetError),
            socket.create_connection((host, int(port)), 5) as connection,
        ):
            connection.sendall(said)


def test_strangers_are_refused(started):
    up = started.start("up", "demo", *HERE)
    line = str(up.wait_for("join")["join"]).split()
    right = Invitation.parse(line[-1])
    # Of another cluster: it does not even get to show its secret. Of this one, with another secret.
    other = Invitation.to(Keys.make().public), "event", "no answer"
    guessed = Invitation(right.key, bytes(16)), "error", "wrong token"
    strangers = [
        (started.start("join", line[2], "--token", invitation.token, "--name", "x"), key, said)
        for invitation, key, said in (other, guessed)
    ]
    namesake = started.join(up, "--name", "here"), "event", "give this one another --name"
    for stranger, key, said in (*strangers, namesake):
        stranger.wait_for(key, said)
    http = str(up.wait_for("url")["url"]).removesuffix("/v1")
    for address in (line[2], http.removeprefix("http://")):
        throw_rubbish(address)
    assert get(http + "/api/state")["ready"]
    assert ask(up, TEXT).strip() == QUESTION.answer


@pytest.fixture
def ray_cluster():
    """Of two nodes beside this machine's own."""
    cluster = RayCluster()
    yield cluster
    cluster.close()


def test_the_nodes_of_a_ray_cluster_answer(ray_cluster, started):
    """This machine does not hold the model alone."""
    up = started.start("up", "demo", "--ray", *HERE, *SMALL, RAY_ADDRESS=ray_cluster.address)
    assert ask(up, TEXT, patience=PATIENCE).strip() == QUESTION.answer
    assert up.wait_for("join")["join"] == f"ray start --address={ray_cluster.address}"
    state = state_of(up)
    assert {x["name"] for x in state["devices"] if x["layers"]} & set(NODES)
    assert up.end(signal.SIGINT) == 0


def end_with_children(process):
    """A node would say farewell for half a minute to a head that is gone."""
    for each in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.kill()
    process.wait()


def test_where_there_is_no_ray_cluster_one_is_started(started, tmp_path, monkeypatch):
    """A node joins by the lines that `up` says, and its worker dies; all ends with `up`. That this
    machine was in a cluster which is gone matters to nobody."""
    ray = str(Path(sys.executable).with_name("ray"))
    with only_ray_cluster(), contextlib.ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory()))  # short: sockets lie there
        (base / "ray").mkdir()
        (base / "ray/ray_current_cluster").write_text("127.0.0.1:9")
        kept = {"HOME": str(tmp_path), "RAY_TMPDIR": str(base), "RAY_USAGE_STATS_ENABLED": "0"}
        for name, value in kept.items():
            monkeypatch.setenv(name, value)
        up = started.start("up", "demo", "--ray", *HERE, *SMALL)
        _, *start = str(up.wait_for("join")["join"]).split()
        said = subprocess.run([ray, "get-auth-token"], capture_output=True, text=True, check=True)
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": said.stdout.strip()}
        node = subprocess.Popen(
            [ray, *start, "--node-name", "there", "--block"],
            env=os.environ | token,
            stdout=subprocess.DEVNULL,
        )
        stack.callback(end_with_children, node)
        up.wait_for("text", "'there' joined")
        assert ask(up, TEXT, patience=PATIENCE).strip() == QUESTION.answer
        (pid,) = worker_pids() - {x.pid for x in workers_of(up)}
        os.kill(pid, signal.SIGKILL)
        assert ask(up, TEXT, patience=PATIENCE).strip() == QUESTION.answer
        heads = [x.pid for x in workers_of(up) if "gcs_server" in x.name()]
        assert up.end(signal.SIGINT) == 0
        assert heads and until(lambda: not any(map(is_running, heads)))


def test_serve_takes_the_nodes_of_a_ray_cluster(ray_cluster, started):
    """Of the one at an address, which is there."""
    here = ("serve", "demo", "--address", ray_cluster.address, "--name", "here", *HERE[2:4])
    server = started.start(*here, *SMALL)
    assert ask(server, TEXT, patience=PATIENCE).strip() == QUESTION.answer
    state = state_of(server)
    assert {x["name"] for x in state["devices"] if x["layers"]} & set(NODES)
    assert server.end(signal.SIGINT) == 0


def test_without_ray_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "edgewise.runtime.launchers.ray", raising=False)
    with pytest.raises(InputError, match=re.escape("pip install 'edgewise[cluster]'")):
        start_on_ray(Device("here", 10**9), "127.0.0.1")


def test_machines_that_joined_come_back_to_the_next_up(started, tmp_path):
    """By the line they had; not once it has new keys."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    here = ("up", "demo", "--listen", f"127.0.0.1:{port}", *HERE[2:], *SMALL)
    first = started.start(*here)
    there = started.join(first, "--name", "there")
    first.wait_for("text", "plan: ")
    line = first.wait_for("join")["join"]
    assert first.end(signal.SIGTERM) == 0
    second = started.start(*here)
    assert second.wait_for("join")["join"] == line
    second.wait_for("text", "'there' joined")
    assert ask(second, TEXT, patience=PATIENCE).strip() == QUESTION.answer
    assert any("asking again in" in str(x.get("event")) for x in there.lines())
    second.process.kill()
    second.process.wait(30)
    third = started.start(*here, "--new-keys")
    assert third.wait_for("join")["join"] != line
    third.wait_for("text", "waiting for devices")
    before, deadline = len(there.lines()), time.monotonic() + 40
    while not any("no answer from" in str(x.get("event")) for x in there.lines()[before:]):
        assert time.monotonic() < deadline, there.lines()
        time.sleep(0.1)
    assert not any("joined" in str(x.get("text")) for x in third.lines())
