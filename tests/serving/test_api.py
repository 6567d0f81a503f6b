"""What OpenAI's own client makes of the server's replies, whole and streamed."""

import json

import openai
import pytest
from openai import OpenAI

from tests.serving.scripted import HERMES, serving

CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Bern"}}</tool_call>'
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
ASKED = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def opened():
    """Makes a client of a server that says a text, and gives its host."""
    contexts = []

    def make(text="", **options):
        context = serving(text, **options)
        url, host = context.__enter__()
        contexts.append(context)
        key = options.get("key") or "none"
        return OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=20), host

    yield make
    for context in contexts:
        context.__exit__(None, None, None)


def chat(client, **options):
    return client.chat.completions.create(model="scripted", messages=ASKED, **options)


def complete(client, prompt, **options):
    return client.completions.create(model="scripted", prompt=prompt, **options)


def test_a_chat(opened):
    client, host = opened("Grüezi")
    said = chat(client, seed=5, temperature=0.5, top_p=0.9)
    assert said.object == "chat.completion" and said.model == "scripted"
    (choice,) = said.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "Grüezi")
    assert choice.finish_reason == "stop" and choice.logprobs is None
    (request,) = host.asked
    sampling = request.sampling
    assert (sampling.seed, sampling.temperature, sampling.top_p) == (5, 0.5, 0.9)
    usage = said.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (len(request.prompt), 8)
    assert usage.total_tokens == usage.prompt_tokens + 8


def test_a_stream_says_the_same(opened):
    client, _ = opened("Grüezi")
    parts = list(chat(client, stream=True, stream_options={"include_usage": True}))
    assert {part.object for part in parts} == {"chat.completion.chunk"}
    assert len({part.id for part in parts}) == 1
    *parts, last = parts
    assert last.choices == [] and last.usage.completion_tokens == 8
    deltas = [part.choices[0].delta for part in parts]
    assert deltas[0].role == "assistant"
    assert [x.content for x in deltas[1:-1]] == ["G", "r", "ü", "e", "z", "i"]
    assert [part.choices[0].finish_reason for part in parts] == [None] * 7 + ["stop"]
    assert all(part.choices for part in chat(client, stream=True))  # no usage unless it is wished


@pytest.mark.parametrize(
    ("options", "text", "finish"),
    [
        ({"max_tokens": 3}, "one", "length"),
        ({"max_completion_tokens": 4, "max_tokens": 3}, "one ", "length"),
        ({"stop": ["tw", "three"]}, "one ", "stop"),
        ({"stop": "!"}, "one two three", "stop"),
    ],
)
def test_how_an_answer_ends(opened, options, text, finish):
    client, _ = opened("one two three")
    (choice,) = chat(client, **options).choices
    assert (choice.message.content, choice.finish_reason) == (text, finish)
    parts = [part.choices[0] for part in chat(client, stream=True, **options)]
    assert "".join(part.delta.content or "" for part in parts) == text
    assert parts[-1].finish_reason == finish


def test_what_is_not_openais_is_passed_on(opened):
    client, host = opened("x")
    extra = {
        "top_k": 7,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "chat_template_kwargs": {"shout": "LOUD"},
    }
    chat(client, extra_body=extra, presence_penalty=0.5, frequency_penalty=-1, logit_bias={"5": 3})
    (request,) = host.asked
    sampling = request.sampling
    assert (sampling.top_k, sampling.min_p, sampling.repetition_penalty) == (7, 0.1, 1.2)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -1)
    assert sampling.logit_bias == ((5, 3.0),)
    assert host.tokenizer.decode(request.prompt) == "user: Hello\nLOUD"


def test_several_answers_draw_apart(opened):
    client, host = opened("ab")
    said = chat(client, n=3, seed=1)
    assert [(x.index, x.message.content) for x in said.choices] == [(i, "ab") for i in range(3)]
    assert {(x.sampling.seed, x.sampling.stream) for x in host.asked} == {(1, 0), (1, 1), (1, 2)}
    assert said.usage.completion_tokens == 9
    assert said.usage.prompt_tokens == len(host.asked[0].prompt)


def test_log_probabilities_of_a_chat(opened):
    client, host = opened("hi")
    (choice,) = chat(client, logprobs=True, top_logprobs=2).choices
    content = choice.logprobs.content
    h, i = host.tokenizer.encode("hi")
    assert [(x.token, x.logprob) for x in content] == [("h", -h / 100), ("i", -i / 100)]
    assert content[0].bytes == [104]
    assert [x.logprob for x in content[0].top_logprobs] == [0, -0.01]
    streamed = [
        entry
        for part in chat(client, logprobs=True, top_logprobs=2, stream=True)
        if part.choices[0].logprobs
        for entry in part.choices[0].logprobs.content
    ]
    assert streamed == content


def test_tools_are_called(opened):
    client, host = opened("Wait." + CALL, template=HERMES)
    (choice,) = chat(client, tools=TOOLS).choices
    assert choice.finish_reason == "tool_calls" and choice.message.content == "Wait."
    (call,) = choice.message.tool_calls
    assert call.type == "function" and call.id
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "weather",
        {"city": "Bern"},
    )
    assert "weather" in host.tokenizer.decode(host.asked[0].prompt)
    with client.chat.completions.stream(model="scripted", messages=ASKED, tools=TOOLS) as stream:
        final = stream.get_final_completion().choices[0]
    assert final.message.tool_calls[0].function.name == "weather"
    assert final.finish_reason == "tool_calls"
    turns = [
        *ASKED,
        choice.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    client.chat.completions.create(model="scripted", messages=turns, tools=TOOLS)
    assert "sunny" in host.tokenizer.decode(host.asked[-1].prompt)


def test_without_tools_a_call_is_text(opened):
    client, _ = opened("<b>" + "x", template=HERMES)
    assert chat(client, tools=TOOLS, tool_choice="none").choices[0].message.content == "<b>x"


@pytest.mark.parametrize(
    "wanted", ["required", {"type": "function", "function": {"name": "weather"}}]
)
def test_a_call_that_is_asked_for_has_a_grammar(opened, wanted):
    client, host = opened(CALL, template=HERMES)
    chat(client, tools=TOOLS, tool_choice=wanted)
    assert host.asked[0].grammar is not None


def test_an_answer_in_json_has_a_grammar(opened):
    client, host = opened("{}")
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "none", "schema": schema}}
    chat(client, response_format=wanted)
    chat(client, response_format={"type": "json_object"})
    chat(client, response_format={"type": "text"})
    assert [x.grammar is None for x in host.asked] == [False, False, True]


def test_completions(opened):
    client, host = opened("def")
    said = complete(client, ["abc", "x"], n=2)
    assert said.object == "text_completion"
    assert [x.text for x in said.choices] == ["def"] * 4
    assert [x.index for x in said.choices] == [0, 1, 2, 3]
    assert [len(x.prompt) for x in host.asked] == [3, 3, 1, 1]
    assert said.usage.prompt_tokens == 4
    assert {x.max_tokens for x in host.asked} == {16}
    assert "".join(x.choices[0].text for x in complete(client, "abc", stream=True)) == "def"


def test_echo_has_the_prompts_log_probabilities(opened):
    client, host = opened("de")
    ids = host.tokenizer.encode("abc")
    (choice,) = complete(client, [ids], echo=True, logprobs=1, max_tokens=1).choices
    assert (choice.text, choice.finish_reason) == ("abcd", "length")
    told, d = choice.logprobs, host.tokenizer.encode("d")[0]
    assert told.tokens == list("abcd") and told.text_offset == [0, 1, 2, 3]
    assert told.token_logprobs == [None, -ids[1] / 100, -ids[2] / 100, -d / 100]
    assert told.top_logprobs[0] is None and told.top_logprobs[1]["b"] == -ids[1] / 100
    assert host.asked[0].score_prompt


def test_an_echo_needs_no_answer(opened):
    client, _ = opened("de")
    said = complete(client, "abc", echo=True, logprobs=0, max_tokens=0)
    assert said.choices[0].text == "abc" and said.choices[0].logprobs.tokens == list("abc")
    assert said.usage.completion_tokens == 0


def test_models(opened):
    client, _ = opened()
    (model,) = client.models.list().data
    assert model.id == "scripted" and client.models.retrieve("scripted").id == "scripted"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


WRONG = [
    {"temperature": -1},
    {"temperature": 2.5},
    {"top_p": 0},
    {"n": 17},
    {"max_tokens": 0},
    {"messages": []},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": ""}}]}]},
    {"messages": [{"role": "user", "content": "x" * 500}]},
    {"top_logprobs": 21},
    {"logit_bias": {"5": 101}},
    {"logit_bias": {"300": 1}},
    {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}},
    {"tools": TOOLS},  # of a template that has none
    {"chat_template_kwargs": {"chat_template": "{{ 1 }}"}},
    {"chat_template_kwargs": {"tokenize": True}},
]


@pytest.mark.parametrize("wrong", WRONG, ids=[str(x)[:60] for x in WRONG])
def test_what_is_wrong_is_said(opened, wrong):
    client, host = opened("x")
    body = {"messages": ASKED, **wrong}
    with pytest.raises(openai.BadRequestError) as error:
        client.post("/chat/completions", body=body, cast_to=object)
    assert error.value.body["type"] == "invalid_request_error" and error.value.body["message"]
    assert not host.asked


@pytest.mark.parametrize("prompt", ["", [], [""], [[]], [[0, 400]], [-1], [["a"]], 5, "x" * 401])
def test_prompts_that_are_none(opened, prompt):
    client, host = opened("x")
    with pytest.raises(openai.BadRequestError):
        client.post("/completions", body={"prompt": prompt}, cast_to=object)
    assert not host.asked


def test_another_model_is_not_found(opened):
    client, _ = opened("x")
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="gpt-4o", messages=ASKED)
    assert error.value.code == "model_not_found"


def test_what_fails_on_the_way(opened):
    client, host = opened("")
    host.error = "no device"
    with pytest.raises(openai.InternalServerError) as error:
        chat(client)
    assert error.value.status_code == 503 and "no device" in str(error.value)
    with pytest.raises(openai.APIError, match="no device"):
        list(chat(client, stream=True))
