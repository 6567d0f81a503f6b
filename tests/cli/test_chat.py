"""Conversations in the terminal."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import edgewise.demo
from edgewise.cli.chat import Conversation, _say
from edgewise.cli.sharing import ChatOptions
from edgewise.demo.questions import draw_questions, prompt
from edgewise.models.tokenizer import load_tokenizer
from edgewise.runtime.engine import Request, Token
from tests.runtime.conftest import reference

MODEL = Path(edgewise.demo.__file__).parent / "model"
QUESTIONS = draw_questions(3, 2)
ROLES = ("user", "assistant", "user")


def test_every_line_of_a_pipe_is_a_turn():
    tokenizer = load_tokenizer("demo")
    texts = [prompt(x.context, x.question).replace("\n", " ") for x in QUESTIONS]
    lines = "\n".join([texts[0], "", "/new", texts[1], texts[0], "/exit", "never asked"])
    done = subprocess.run(
        [sys.executable, "-m", "edgewise", "chat", "demo", "--scheme", "fp32"],
        input=lines,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr

    def answered(*said):
        turns = [{"role": role, "content": text} for role, text in zip(ROLES, said, strict=False)]
        ids = tuple(tokenizer.encode_chat(turns))
        tokens = reference(MODEL, Request(ids, 60, stop_ids=tokenizer.stop_ids))
        return tokenizer.decode(tokens).removesuffix("\n")

    second = answered(texts[1])
    expected = [answered(texts[0]), second, answered(texts[1], second, texts[0])]
    assert done.stdout.splitlines() == expected


class Endless:
    """An engine that says the same token until it is cancelled; Ctrl-C comes with the third."""

    def __init__(self, token):
        self.token, self.requests, self.cancelled, self.steps = token, [], [], 0

    def submit(self, request):
        self.requests.append(request)
        return len(self.requests) - 1

    def step(self):
        self.steps += 1
        if self.steps == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return [Token(len(self.requests) - 1, self.token, None, time.monotonic(), ())]

    def cancel(self, request):
        self.cancelled.append(request)


def test_ctrl_c_stops_the_answer_and_not_the_conversation(capsys):
    tokenizer = load_tokenizer("demo")
    (token,) = tokenizer.encode(" a")[:1]
    engine = Endless(token)
    chat = Conversation(engine, tokenizer, ChatOptions(model="demo", system="Be kind."), 200)
    before = signal.getsignal(signal.SIGINT)
    _say(chat, "Hello")
    said = capsys.readouterr().out
    assert said.strip() == tokenizer.decode([token] * 3).strip()
    assert engine.cancelled == [0] and signal.getsignal(signal.SIGINT) is before
    roles = [turn["role"] for turn in chat.turns]
    assert roles == ["system", "user", "assistant"]
    assert chat.turns[-1]["content"] == said.rstrip("\n")
    assert engine.requests[0].max_tokens == 200 - len(engine.requests[0].prompt)


def test_a_conversation_that_is_too_long_says_how_to_go_on(capsys):
    tokenizer = load_tokenizer("demo")
    chat = Conversation(Endless(5), tokenizer, ChatOptions(model="demo"), 20)
    _say(chat, "a b c d " * 20)
    assert "/new begins anew" in capsys.readouterr().err and chat.turns == []
