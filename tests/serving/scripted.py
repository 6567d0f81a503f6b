"""A server whose host says what a test wants it to say, one byte a token."""

import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

from tokenizers import Tokenizer as Fast
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from edgewise.hosting import State
from edgewise.models.tokenizer import Tokenizer
from edgewise.runtime.engine import Token
from edgewise.runtime.scores import Score
from edgewise.serving import Gate, HttpServer, Model, create_app

END = "<end>"
SPECIAL = (END, "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]")
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if shout is defined %}{{ shout }}{% endif %}"
)
HERMES = TEMPLATE + "{% if tools %}{{ tools | tojson }} <tool_call>{% endif %}"


def byte_tokenizer(template=TEMPLATE):
    """A token for every byte, and some special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fast = Fast(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    hf = PreTrainedTokenizerFast(tokenizer_object=fast, eos_token=END)
    hf.add_special_tokens({"additional_special_tokens": list(SPECIAL[1:])})
    hf.chat_template = template
    return Tokenizer(hf, frozenset([hf.eos_token_id]))


class ScriptedHost:
    """Answers with `text`, a token every `seconds`, whatever it is asked, as far as a request has
    room and its grammar allows it; `asked` are the requests, `running` how many are under way."""

    def __init__(self, tokenizer, text="", seconds=0.0):
        self.tokenizer, self.text, self.seconds = tokenizer, text, seconds
        self.asked, self.running, self.error = [], 0, ""
        self.state = State(
            "scripted", "serving", True, 0, (), (), (), (), None, (), 0, 0, 0, 0, None, None, (), ()
        )
        self.stats, self.without_plan, self.swaps = None, "", SimpleNamespace(names={})

    def ask(self, request, on_token, seconds=0.0):
        self.asked.append(request)
        cancelled = threading.Event()
        self.running += 1
        threading.Thread(
            target=self._answer, args=(request, on_token, cancelled), daemon=True
        ).start()
        return cancelled.set

    def _answer(self, request, on_token, cancelled):
        ids = [*self.tokenizer.encode(self.text), *request.stop_ids] if self.text else []
        for number, token in enumerate(ids, 1):
            if cancelled.wait(self.seconds):
                break
            finish = "length" if number == request.max_tokens else None
            finish = "stop" if token in request.stop_ids else finish
            score = None if request.top is None else scored(token, request.top)
            scores = [scored(x, request.top) for x in request.prompt[1:]]
            prompt = tuple(scores) if request.score_prompt and number == 1 else ()
            on_token(Token(0, token, finish, time.monotonic(), (), "", score, prompt))
            if finish:
                break
        if self.error:
            on_token(Token(0, 0, "error", time.monotonic(), (), self.error))
        self.running -= 1


def scored(token, top):
    return Score(token, -token / 100, tuple((x, -x / 100) for x in range(top or 0)))


@contextmanager
def serving(text="", *, template=TEMPLATE, seconds=0.0, context=400, **options):
    """A server's address, and its host."""
    tokenizer = byte_tokenizer(template)
    host = ScriptedHost(tokenizer, text, seconds)
    model = Model("scripted", tokenizer, context, 300, context)
    server = HttpServer(create_app(host, model, **options), "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.port}", host
    finally:
        server.close()


__all__ = ["Gate", "ScriptedHost", "byte_tokenizer", "serving"]
