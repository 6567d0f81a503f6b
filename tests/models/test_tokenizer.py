"""Tokenizers by Hugging Face's libraries, and text that streams without changing its mind."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.errors import ModelError, PromptError
from edgewise.models.text_stream import TextStream
from edgewise.models.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("demo")


def streamed(text, stop=()):
    """Stream the bytes of `text` one by one: the worst a byte-level tokenizer can do."""
    encoded = text.encode()
    stream = TextStream(lambda ids: bytes(ids).decode(errors="replace"), stop)
    pieces = []
    for byte in encoded:
        pieces.append(stream.push(byte))
        if stream.stopped:
            return pieces, stream
    return [*pieces, stream.flush()], stream


@given(st.text())
def test_the_pieces_are_the_text(text):
    pieces, stream = streamed(text)
    assert "".join(pieces) == text
    assert not stream.stopped


@given(st.text("ab€"), st.lists(st.text("ab€", min_size=1, max_size=4), min_size=1, max_size=3))
def test_text_ends_where_the_first_stop_string_begins(text, stop):
    pieces, stream = streamed(text, stop)
    starts = [text.find(s) for s in stop if s in text]
    shown = "".join(pieces)
    assert stream.stopped == bool(starts)
    assert not any(s in shown for s in stop)
    if starts:
        assert text.startswith(shown)
        # Nothing that any stop string could have cut later was shown, nor too little.
        ends = [text.find(s) + len(s) for s in stop if s in text]
        assert len(shown) <= min(ends)
    else:
        assert shown == text


def test_unfinished_characters_are_held_back():
    pieces, _ = streamed("a€b")
    assert pieces == ["a", "", "", "€", "b", ""]


def test_the_beginning_of_a_stop_string_is_held_back():
    assert streamed("xENy", ["END"])[0] == ["x", "", "", "ENy", ""]
    assert "".join(streamed("xEND and more", ["END"])[0]) == "x"


@given(text=st.text(min_size=1))
def test_the_demo_tokenizer_returns_any_text(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_conversation_goes_through_the_chat_template(tokenizer):
    question = "Sensor 3 reads 9 degrees.\nWhat does sensor 3 read?"
    ids = tokenizer.encode_chat([{"role": "user", "content": question}])
    assert tokenizer.decode(ids).endswith("Answer:")
    assert question in tokenizer.decode(ids)


def test_an_empty_prompt_and_a_missing_template_are_refused(tokenizer, checkpoint):
    with pytest.raises(PromptError, match="the prompt is empty"):
        tokenizer.encode("")
    with pytest.raises(ModelError, match="no tokenizer files; looked for"):
        load_tokenizer(checkpoint("llama"))


def test_stop_ids_come_from_tokenizer_and_configuration(tokenizer):
    assert tokenizer.stop_ids
    assert all(isinstance(i, int) for i in tokenizer.stop_ids)
