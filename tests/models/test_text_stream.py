"""Streams of tokens against decoding all of them at once, and the work that takes."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.models.text_stream import TextStream
from edgewise.models.tokenizer import load_tokenizer

TEXT = "naïve Ωμέγα, 日本語 \u2028\n\t 🤗👩\u200d👧  e\u0302 x"


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("demo")


@pytest.fixture(scope="module")
def kinds(tokenizer):
    """Tokens of which sequences are made, by kind."""
    hf = tokenizer._hf
    every = list(range(len(hf)))
    return {
        "any": every,
        "bytes": [i for i in every if len(hf.convert_ids_to_tokens(i)) == 1],
        "pieces of characters": hf(TEXT)["input_ids"],
        "special": [*hf.all_special_ids, *hf("é a")["input_ids"]],
    }


def streamed(decode, ids, stop=()):
    stream = TextStream(decode, stop)
    return "".join([*(stream.push(i) for i in ids), stream.flush()])


@settings(deadline=None, max_examples=60)
@given(data=st.data())
@pytest.mark.parametrize("kind", ["any", "bytes", "pieces of characters", "special"])
def test_the_stream_is_the_whole_text(tokenizer, kinds, kind, data):
    ids = data.draw(st.lists(st.sampled_from(kinds[kind]), max_size=90))
    assert streamed(tokenizer.decode, ids) == tokenizer.decode(ids)


@given(st.lists(st.sampled_from(["▁a", "▁", "b", "▁日", "<s>"]), max_size=80))
def test_a_space_that_only_the_first_word_lacks(tokens):
    """As SentencePiece decodes: the text's first space is none."""

    def decode(ids):
        text = "".join("" if tokens[i] == "<s>" else tokens[i] for i in ids)
        return text.replace("▁", " ").removeprefix(" ")

    ids = list(range(len(tokens)))
    assert streamed(decode, ids) == decode(ids)


@pytest.mark.parametrize("length", [100, 1000, 4000])
@pytest.mark.parametrize("kind", ["any", "bytes"])
def test_the_work_of_a_token_does_not_grow(tokenizer, kinds, kind, length):
    draw, work = random.Random(length), 0

    def decode(ids):
        nonlocal work
        work += len(ids)
        return tokenizer.decode(ids)

    streamed(decode, draw.choices(kinds[kind], k=length), ["\0\0\0"])
    assert work < 40 * length


def test_a_stop_string_is_found_across_settled_text(tokenizer):
    long = "word " * 40
    for at in range(60):
        text = "x" * at + "END" + long
        assert streamed(tokenizer.decode, tokenizer.encode(text), ["END"]) == "x" * at
        assert streamed(tokenizer.decode, tokenizer.encode(text), ["ENDLESS"]) == text
