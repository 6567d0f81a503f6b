"""How `up` ends by signals, whatever it is at: processes as people start them."""

import json
import signal
import urllib.error
import urllib.request

import pytest

from edgewise.models.tokenizer import load_tokenizer
from tests.hosting.clusters import PATIENCE
from tests.hosting.test_up import HERE, is_ready, state_of, workers_of
from tests.runtime.places import until

SECONDS = 60.0  # far more than an end takes


def ended(up):
    """Its exit code and what it wrote; its workers end, too."""
    workers = workers_of(up)
    code = up.process.wait(SECONDS)
    assert workers and until(lambda: not any(worker.is_running() for worker in workers))
    return code, up.log.read_text(encoding="utf-8")


def completion(up, **options):
    body = {"prompt": "a", **options}
    url = str(up.wait_for("url")["url"]) + "/completions"
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(url, json.dumps(body).encode(), headers)
    return urllib.request.urlopen(asked, timeout=SECONDS)


def is_closed(up):
    try:
        completion(up, max_tokens=1).close()
    except urllib.error.HTTPError as refused:
        with refused as error:
            return "about to end" in error.read().decode()
    return False


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_one_that_measures_for_the_first_time_ends_at_once(started, tmp_path, signum):
    up = started.start("up", "demo", *HERE, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert until(lambda: str(state_of(up)["status"]).startswith("measuring"))
    up.process.send_signal(signum)
    code, said = ended(up)
    assert code == 0 and "Traceback" not in said
    assert "plan: " not in said


def test_the_second_signal_ends_it_and_who_waits_is_told(started):
    up = started.start("up", "demo", *HERE)
    assert until(lambda: is_ready(up), PATIENCE)
    bias = {str(stop): -100 for stop in load_tokenizer("demo").stop_ids}
    with completion(up, max_tokens=400, n=16, logit_bias=bias, stream=True) as answer:
        assert answer.readline().startswith(b"data: ")
        up.process.send_signal(signal.SIGINT)
        assert until(lambda: is_closed(up))
        up.process.send_signal(signal.SIGINT)
        rest = answer.read().decode()
    code, said = ended(up)
    assert '"message":"this server has ended"' in rest.replace(": ", ":")
    assert code == 130 and "Traceback" not in said
