"""SmolLM2 on three devices behind the server, asked by OpenAI's client."""

import asyncio
import json
import signal
import time

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.hosting.clusters import commands
from tests.seeds import THOROUGH
from tests.serving.test_served import state_of, wait_until_ready

CLUSTER = """
source = "a"
[[device]]
name = "a"
memory = "120 MB"
[[device]]
name = "b"
memory = "120 MB"
[[device]]
name = "c"
memory = "120 MB"
[[network]]
devices = ["a", "b", "c"]
bandwidth = "1 Gbps"
latency = "0.2 ms"
"""  # none of them holds the model
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
STREAMS = 64 if THOROUGH else 16
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def url(tmp_path_factory, real_model):
    folder = tmp_path_factory.mktemp("serve")
    (folder / "cluster.toml").write_text(CLUSTER)
    with commands(folder) as started:
        running = started.start(
            "serve", "smollm2", "--scheme", "stored", "--http", "127.0.0.1:0", "--sequences", "8",
            "--prompt-tokens", "64", "--new-tokens", "32",
            "--cluster", str(folder / "cluster.toml"),
        )  # fmt: skip
        address = str(running.wait_for("url")["url"])
        wait_until_ready(address, 120)
        assert sum(bool(device["layers"]) for device in state_of(address)["devices"]) > 1
        yield address
        assert running.end(signal.SIGTERM) == 0


@pytest.fixture
def client(url):
    with OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120) as opened:
        yield opened


def chat(client, **options):
    return client.chat.completions.create(
        **{"model": "smollm2", "messages": FRANCE, "temperature": 0, "max_tokens": 24, **options}
    )


def test_whole_and_streamed_are_the_same(client):
    whole = chat(client).choices[0]
    assert "Paris" in whole.message.content
    parts = [part.choices[0] for part in chat(client, stream=True)]
    assert "".join(x.delta.content or "" for x in parts) == whole.message.content
    assert parts[-1].finish_reason == whole.finish_reason


def test_completions_and_stop_strings(client):
    asked = {"model": "smollm2", "prompt": "One, two, three,", "temperature": 0, "max_tokens": 24}
    whole = client.completions.create(**asked).choices[0]
    assert "four" in whole.text
    before, _, _ = whole.text.partition("four")
    stopped = client.completions.create(**asked, stop=["four"]).choices[0]
    assert (stopped.text, stopped.finish_reason) == (before, "stop")


def test_what_the_model_cannot_do_is_said(client):
    with pytest.raises(openai.BadRequestError, match="tools"):
        chat(client, tools=[TOOL])
    with pytest.raises(openai.BadRequestError, match="temperature"):
        chat(client, temperature=9)
    with pytest.raises(openai.NotFoundError):
        chat(client, model="another")


def test_an_answer_keeps_to_a_schema(client):
    schema = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}},
              "required": ["city"], "additionalProperties": False}  # fmt: skip
    wanted = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
    said = json.loads(chat(client, response_format=wanted).choices[0].message.content)
    assert said["city"] in ("Paris", "Rome")


def test_a_client_that_hangs_up_frees_its_place(client, url):
    parts = chat(client, stream=True, max_tokens=400)
    next(iter(parts))
    parts.close()
    deadline = time.monotonic() + 10
    while state_of(url)["running"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_many_streams_at_a_time(url, client):
    """More than there are places for: every one is answered as if it were alone."""
    expected = chat(client).choices[0].message.content

    async def one(client):
        asked = {"model": "smollm2", "messages": FRANCE, "temperature": 0, "max_tokens": 24}
        parts = await client.chat.completions.create(**asked, stream=True)
        return "".join([part.choices[0].delta.content or "" async for part in parts])

    async def all_of():
        asked = {"base_url": url, "api_key": "none", "max_retries": 0, "timeout": 170}
        async with AsyncOpenAI(**asked) as client:
            return await asyncio.gather(*(one(client) for _ in range(STREAMS)))

    assert asyncio.run(all_of()) == [expected] * STREAMS
