"""Calls in answers, however the text is cut into pieces."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.errors import PromptError
from edgewise.serving.tools import HERMES, LLAMA, MISTRAL, ToolReader, must_call, tool_format
from tests.serving.scripted import byte_tokenizer

CALL = '{"name": "weather", "arguments": {"city": "Zürich"}}'
OTHER = '{"name": "time", "arguments": {}}'
MARKED = '{"name": "weather", "arguments": {"city": "</tool_call>"}}'
WEATHER = ("weather", {"city": "Zürich"})
TIME = ("time", {})
LLAMAS = CALL.replace("arguments", "parameters")

CASES = [
    (HERMES, f"<tool_call>\n{CALL}\n</tool_call>", "", [WEATHER]),
    (
        HERMES,
        f"Well.<tool_call>{CALL}</tool_call>\n<tool_call>{OTHER}</tool_call>",
        "Well.\n",
        [WEATHER, TIME],
    ),
    (HERMES, f"<tool_call>{CALL}", "", [WEATHER]),  # it ended early, but whole
    (
        HERMES,
        f"So.<tool_call>{MARKED}</tool_call>\n<tool_call>{OTHER}</tool_call>",
        "So.\n",
        [("weather", {"city": "</tool_call>"}), TIME],
    ),
    (
        HERMES,
        f'<tool_call>{{"name": "</tool_call> or <tool_call>{OTHER}</tool_call>',
        '<tool_call>{"name": "</tool_call> or ',
        [TIME],
    ),
    (HERMES, '<tool_call>{"</tool_call>.', '<tool_call>{"</tool_call>.', []),
    (HERMES, "a < b <tool", "a < b <tool", []),
    (HERMES, "<tool_call>no JSON</tool_call>.", "<tool_call>no JSON</tool_call>.", []),
    (HERMES, '<tool_call>{"name": 3}</tool_call>', '<tool_call>{"name": 3}</tool_call>', []),
    (MISTRAL, f"[TOOL_CALLS][{CALL}, {OTHER}]", "", [WEATHER, TIME]),
    (MISTRAL, 'So:[TOOL_CALLS]weather[ARGS]{"city": "Zürich"}', "So:", [WEATHER]),
    (
        MISTRAL,
        '[TOOL_CALLS]weather[ARGS]{"city": "Zürich"}[TOOL_CALLS]time[ARGS]{}',
        "",
        [WEATHER, TIME],
    ),
    (
        MISTRAL,
        '[TOOL_CALLS]weather[ARGS]{"city": "[TOOL_CALLS]x[ARGS]"} [TOOL_CALLS]time[ARGS] {}\n',
        "",
        [("weather", {"city": "[TOOL_CALLS]x[ARGS]"}), TIME],
    ),
    (MISTRAL, "[TOOL_CALLS]time[ARGS]{} So.", "[TOOL_CALLS]time[ARGS]{} So.", []),
    (MISTRAL, "[TOOL_CALLS]weather", "[TOOL_CALLS]weather", []),
    (LLAMA, LLAMAS, "", [WEATHER]),
    (LLAMA, f" {LLAMAS}; {OTHER}", "", [WEATHER, TIME]),
    (LLAMA, '{"answer": 42}', '{"answer": 42}', []),
    (LLAMA, f"It is {LLAMAS}", f"It is {LLAMAS}", []),
]


def read(known, pieces):
    reader, text, calls = ToolReader(known), "", []
    for piece in pieces:
        said, made = reader.push(piece)
        text, calls = text + said, calls + made
    said, made = reader.flush()
    calls += made
    assert reader.calls == len(calls)
    return text + said, [(call.name, json.loads(call.arguments)) for call in calls]


@pytest.mark.parametrize(("known", "answer", "text", "calls"), CASES)
def test_calls_are_read_from_one_piece(known, answer, text, calls):
    assert read(known, [answer]) == (text, calls)


@given(st.sampled_from(CASES), st.lists(st.integers(0, 120), max_size=12))
def test_how_it_is_cut_does_not_matter(case, cuts):
    known, answer, text, calls = case
    ends = [*sorted(cut for cut in cuts if cut < len(answer)), len(answer)]
    pieces = [answer[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    assert read(known, pieces) == (text, calls)


@given(st.text('<>tol_ca{}[]"TOLCARGS/ ', max_size=60), st.sampled_from([HERMES, MISTRAL, LLAMA]))
def test_what_is_no_call_is_text(answer, known):
    assert read(known, list(answer)) == (answer, [])


def test_text_before_a_call_does_not_wait_for_it():
    reader = ToolReader(HERMES)
    assert reader.push("Let me see. <too") == ("Let me see. ", [])
    assert reader.push("l_call>{") == ("", [])


def test_the_family_is_told_by_its_template():
    assert tool_format("{{ tools }} [TOOL_CALLS]") is MISTRAL
    assert tool_format("{{ tools }} <tool_call>") is HERMES
    assert tool_format('{{ tools }} {"name": n, "parameters": p}') is LLAMA
    assert tool_format("{{ tools }}") is None and tool_format("<tool_call>") is None


FUNCTIONS = [
    {"name": "weather", "parameters": {"type": "object", "properties": {"day": {"const": "x"}}}},
    {"name": "time"},
]


@pytest.mark.parametrize(
    ("known", "right", "wrong"),
    [
        (HERMES, '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>', "It is"),
        (HERMES, '<tool_call>\n{"name":"weather","arguments":{"day":"x"}}\n</tool_call>', "{"),
        (LLAMA, '{"name": "time", "parameters": {}}', '{"name": "date"'),
    ],
)
def test_a_call_can_be_asked_for(known, right, wrong):
    tokenizer = byte_tokenizer()

    def accepts(text):
        matcher = must_call(tokenizer.grammars, known, FUNCTIONS).matcher()
        ids = tokenizer.encode(text)
        for token in ids:
            if not matcher.allowed()[token // 8] >> token % 8 & 1:
                return False
            matcher.accept(token)
        (end,) = tokenizer.stop_ids
        return bool(matcher.allowed()[end // 8] >> end % 8 & 1)

    assert accepts(right) and not accepts(wrong)


def test_mistrals_calls_cannot_be_asked_for():
    with pytest.raises(PromptError, match="only allowed"):
        must_call(byte_tokenizer().grammars, MISTRAL, FUNCTIONS)
