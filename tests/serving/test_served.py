"""A real model on three devices behind the server, asked by real clients."""

import asyncio
import json
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from operator import itemgetter
from pathlib import Path

import pytest
import torch
from openai import AsyncOpenAI, OpenAI
from transformers import AutoModelForCausalLM

import edgewise.demo
from edgewise.demo.questions import draw_questions, prompt
from edgewise.models.tokenizer import load_tokenizer
from tests.hosting.clusters import commands

MODEL = Path(edgewise.demo.__file__).parent / "model"
QUESTIONS = draw_questions(3, 8)
TEXTS = [prompt(x.context, x.question) for x in QUESTIONS]
CLUSTER = """
source = "a"
[[device]]
name = "a"
memory = "20 MB"
[[device]]
name = "b"
memory = "20 MB"
[[device]]
name = "c"
memory = "20 MB"
[[network]]
devices = ["a", "b", "c"]
bandwidth = "1 Gbps"
latency = "0.2 ms"
"""  # none of them holds the model
SERVE = ("serve", "demo", "--scheme", "fp32", "--http", "127.0.0.1:0")
SHORT = ("--prompt-tokens", "128", "--new-tokens", "64")


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    (folder / "cluster.toml").write_text(CLUSTER)
    with commands(folder) as started:
        running = started.start(*SERVE, *SHORT, "--cluster", str(folder / "cluster.toml"))
        address = str(running.wait_for("url")["url"])
        wait_until_ready(address)
        state = state_of(address)
        assert sum(bool(device["layers"]) for device in state["devices"]) > 1
        yield address
        assert running.end(signal.SIGTERM) == 0


@pytest.fixture
def client(url):
    with OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as opened:
        yield opened


def chat(client, text, **options):
    turns = [{"role": "user", "content": text}]
    said = client.chat.completions.create(model="demo", messages=turns, **options)
    return [choice.message.content.strip() for choice in said.choices]


def test_questions_are_answered(client):
    for question, text in zip(QUESTIONS, TEXTS, strict=True):
        assert chat(client, text, temperature=0) == [question.answer]


def test_the_same_seed_says_the_same(client):
    def draw(**options):
        return chat(client, TEXTS[0], temperature=2, max_tokens=12, n=3, **options)

    first = draw(seed=3)
    assert draw(seed=3) == first and len(set(first)) > 1
    assert draw(seed=4) != first
    assert draw() != draw()


def test_many_streams_at_a_time(url):
    async def one(client, number):
        turns = [{"role": "user", "content": TEXTS[number % len(TEXTS)]}]
        parts = await client.chat.completions.create(
            model="demo", messages=turns, temperature=0, stream=True
        )
        return "".join([part.choices[0].delta.content or "" async for part in parts])

    async def all_of():
        asked = {"base_url": url, "api_key": "none", "max_retries": 0, "timeout": 120}
        async with AsyncOpenAI(**asked) as client:
            return await asyncio.gather(*(one(client, number) for number in range(64)))

    answers = [answer.strip() for answer in asyncio.run(all_of())]
    assert answers == [QUESTIONS[i % len(QUESTIONS)].answer for i in range(64)]


def lm_eval_scores(outputs, lengths):
    """As lm-evaluation-harness reads replies (lm_eval/models/openai_completions.py,
    LocalCompletionsAPI.parse_logprobs)."""
    scores = []
    for choice, length in zip(
        sorted(outputs["choices"], key=itemgetter("index")), lengths, strict=True
    ):
        logprobs = sum(choice["logprobs"]["token_logprobs"][length:-1])
        tokens = choice["logprobs"]["tokens"][length:-1]
        tops = choice["logprobs"]["top_logprobs"][length:-1]
        greedy = all(
            token == max(top, key=top.get) for token, top in zip(tokens, tops, strict=True)
        )
        scores.append((logprobs, greedy))
    return scores


def test_an_evaluation_gets_the_unsharded_models_log_likelihoods(client):
    tokenizer = load_tokenizer("demo")
    contexts = [tokenizer.encode(text) for text in TEXTS[:4]]
    right = [tokenizer.encode(" " + x.answer) for x in QUESTIONS[:4]]
    wrong = [tokenizer.encode(" " + x.answer) for x in QUESTIONS[4:]]
    pairs = [*zip(contexts, right, strict=True), *zip(contexts, wrong, strict=True)]
    body = {
        "model": "demo",
        "prompt": [a + b for a, b in pairs],
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
        "temperature": 0,
    }
    outputs = client.post("/completions", body=body, cast_to=object)
    ours = lm_eval_scores(outputs, [len(a) for a, _ in pairs])
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    for (context, answer), (logprob, greedy) in zip(pairs, ours, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([context + answer])).logits[0, len(context) - 1 : -1]
        targets = torch.tensor(answer)
        expected = logits.log_softmax(-1)[range(len(answer)), targets].sum()
        assert logprob == pytest.approx(float(expected), abs=1e-3)
        assert greedy == bool((logits.argmax(-1) == targets).all())
    assert any(greedy for _, greedy in ours) and not all(greedy for _, greedy in ours)


def test_an_answer_keeps_to_a_schema(client):
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["a", "b"]}, "count": {"type": "integer", "maximum": 99}},
        "required": ["kind", "count"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
    for seed in range(4):
        (said,) = chat(client, TEXTS[0], response_format=wanted, seed=seed)
        answer = json.loads(said)
        assert answer["kind"] in ("a", "b") and answer["count"] <= 99


def wait_until_ready(url, seconds=60.0):
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url.removesuffix("/v1") + "/ready", timeout=10):
                return
        except urllib.error.HTTPError as error:
            assert error.code == 503 and time.monotonic() < deadline
            time.sleep(0.1)


def state_of(url):
    with urllib.request.urlopen(url.removesuffix("/v1") + "/api/state", timeout=10) as state:
        return json.load(state)


def test_a_client_that_hangs_up_frees_its_place(client, url):
    turns = [{"role": "user", "content": TEXTS[0]}]
    bias = {str(stop): -100 for stop in load_tokenizer("demo").stop_ids}
    options = {"temperature": 1, "logit_bias": bias, "stream": True}
    parts = client.chat.completions.create(model="demo", messages=turns, **options)
    next(iter(parts))
    while not state_of(url)["running"]:
        time.sleep(0.05)
    parts.close()
    time.sleep(0.7)  # what /api/state says may be 0.5 s old
    assert not state_of(url)["running"]


def test_a_server_answers_what_it_has_before_it_ends(tmp_path):
    with commands(tmp_path) as started:
        server = started.start(*SERVE, *SHORT)
        url = str(server.wait_for("url")["url"])
        server.wait_for("text", "plan: ")
        bias = {str(stop): -100 for stop in load_tokenizer("demo").stop_ids}
        with OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
            parts = iter(
                client.completions.create(
                    model="demo", prompt="a", max_tokens=150, logit_bias=bias, stream=True, n=4
                )
            )
            next(parts)
            server.process.send_signal(signal.SIGTERM)
            finishes = [x.choices[0].finish_reason for x in parts]
        assert finishes.count("length") == 4
        assert server.process.wait(30) == 0


@pytest.mark.timing
def test_the_first_answer_comes_soon(tmp_path):
    """Within 10 s of the command, with seconds of the device kept from before."""
    with commands(tmp_path) as started:
        started.start(*SERVE, *SHORT).wait_for("text", "plan: ")
        began = time.monotonic()
        url = str(started.start(*SERVE, *SHORT).wait_for("url")["url"])
        wait_until_ready(url)
        with OpenAI(base_url=url, api_key="none") as client:
            assert chat(client, TEXTS[0], temperature=0) == [QUESTIONS[0].answer]
        assert time.monotonic() - began < 10


def test_beyond_this_machine_a_key_is_made_and_said_once(tmp_path):
    with commands(tmp_path) as started:
        server = started.start("serve", "demo", "--http", "0.0.0.0:0", "--scheme", "fp32", *SHORT)
        said = server.wait_for("url")
        url, key = str(said["url"]).replace("0.0.0.0", "127.0.0.1"), str(said["key"])
        server.wait_for("text", "plan: ")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{url}/models", timeout=10)
        with OpenAI(base_url=url, api_key=key) as client:
            assert chat(client, TEXTS[0], temperature=0)
        assert server.end(signal.SIGTERM) == 0
        assert server.log.read_text().count(key) == 1


def test_a_key_that_was_given_is_never_said(tmp_path):
    with commands(tmp_path) as started:
        server = started.start(*SERVE, *SHORT, EDGEWISE_API_KEY="given-by-someone")
        url = str(server.wait_for("url")["url"])
        with OpenAI(base_url=url, api_key="given-by-someone") as client:
            assert client.models.list().data
        assert server.end(signal.SIGTERM) == 0
        assert "given-by-someone" not in server.log.read_text()


SCRIPT = """
import OpenAI from "openai";
const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: process.argv[3] }];
const asked = { model: "demo", messages, temperature: 0 };
const whole = await client.chat.completions.create(asked);
let streamed = "", last;
const parts = await client.chat.completions.create({
  ...asked, stream: true, stream_options: { include_usage: true },
});
for await (const part of parts) { streamed += part.choices[0]?.delta.content ?? ""; last = part; }
const completion = await client.completions.create({ model: "demo", prompt: "a", max_tokens: 2 });
let error;
try { await client.chat.completions.create({ ...asked, temperature: 9 }); }
catch (e) { error = e; }
const abort = new AbortController();
const how = { signal: abort.signal };
const cut = await client.chat.completions.create({ ...asked, stream: true }, how);
for await (const part of cut) { abort.abort(); break; }
const models = (await client.models.list()).data.map((model) => model.id);
console.log(JSON.stringify({
  whole: whole.choices[0].message.content, streamed, usage: last.usage,
  finish: completion.choices[0].finish_reason, status: error.status, models,
}));
"""


@pytest.fixture(scope="module")
def javascript(tmp_path_factory):
    """A folder with OpenAI's client for Node."""
    if not shutil.which("npm"):
        pytest.skip("Node and npm are not here")
    folder = tmp_path_factory.mktemp("javascript")
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "ask.js").write_text(SCRIPT)
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "openai"]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=120)
    if done.returncode:
        pytest.skip(f"npm has no 'openai' here: {done.stderr[-200:]}")
    return folder


def test_the_javascript_client(url, javascript):
    done = subprocess.run(
        ["node", "ask.js", url, TEXTS[0]],
        cwd=javascript,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["whole"].strip() == said["streamed"].strip() == QUESTIONS[0].answer
    assert said["usage"]["total_tokens"] > 0 and said["finish"] == "length"
    assert (said["status"], said["models"]) == (400, ["demo"])
