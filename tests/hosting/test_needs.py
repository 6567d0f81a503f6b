"""Deadlines and qualities over HTTP."""

import json
import urllib.error
import urllib.request

import pytest

from edgewise.demo.questions import draw_questions, prompt
from tests.hosting.clusters import commands

QUESTION = draw_questions(3, 1)[0]
TEXT = prompt(QUESTION.context, QUESTION.question)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    here = ("--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--name", "here")
    with commands(tmp_path_factory.mktemp("up")) as started:
        up = started.start("up", "demo", *here, "--scheme", "fp32", "--policy", "dftsp")
        up.wait_for("text", "plan: ")
        yield str(up.wait_for("url")["url"])


def asked(url, **needs):
    """The answer's text, or the error's status and text."""
    turns = [{"role": "user", "content": TEXT}]
    body = {"messages": turns, "temperature": 0, "max_tokens": 40, **needs}
    request = urllib.request.Request(
        f"{url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return str(json.load(response)["choices"][0]["message"]["content"]).strip()
    except urllib.error.HTTPError as error:
        return f"{error.code} {json.load(error)['error']['message']}"


def test_what_can_be_met_is_answered(url):
    assert asked(url, deadline_ms=60_000, min_quality=1.0) == QUESTION.answer


def test_what_cannot_be_met_is_refused_and_said(url):
    said = asked(url, deadline_ms=1)
    assert said.startswith("400 ") and "the deadline of 1 ms cannot be met" in said
    assert "up to 40 out would take" in said


@pytest.mark.parametrize("needs", [{"deadline_ms": 0}, {"min_quality": 2}])
def test_what_means_nothing_is_refused(url, needs):
    assert next(iter(needs)) in asked(url, **needs)
