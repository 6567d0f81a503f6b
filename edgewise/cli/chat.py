"""`edgewise chat`: a conversation in the terminal."""

import contextlib
import signal
import sys
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from importlib import import_module

from edgewise.cli.options import ADAPTER, named_adapter
from edgewise.cli.sharing import ChatOptions
from edgewise.cli.terminal import bars, input_lines, print_notes, print_text
from edgewise.cluster_files import load_cluster
from edgewise.errors import PromptError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.tokenizer import Tokenizer, load_tokenizer
from edgewise.opening.adapters import open_adapters
from edgewise.opening.answer import pieces_of
from edgewise.opening.engine import open_wanted, this_machine
from edgewise.opening.wanted import Wanted
from edgewise.runtime.engine import Engine, Request, stream
from edgewise.runtime.sampling import Sampling
from edgewise.specs import Workload

CONTEXT = 4096  # tokens of a conversation, where the model takes as many
KEPT = 2  # caches: the conversation so far is not computed again
HELP = "/exit or Ctrl-D ends, /new begins anew, Ctrl-C stops an answer."
MARK = "> "


def run_chat(options: ChatOptions) -> None:
    """Until the conversation is ended. Every line of standard input is a turn."""
    checkpoint, tokenizer = open_checkpoint(options.model), load_tokenizer(options.model)
    print_notes(checkpoint.notes)
    room = min(checkpoint.spec.max_context, CONTEXT)
    cluster = load_cluster(options.cluster) if options.cluster else this_machine()
    workload = Workload(room // 2, room - room // 2, KEPT)
    adapters = open_adapters(named_adapter(options.adapter), checkpoint, options.vote)
    how = None, options.scheme, options.quality
    wanted = Wanted(options.model, cluster, workload, *how, adapters=adapters)
    with closing(open_wanted(wanted, bars(quiet=False), lambda x: print_notes([x]))) as engine:
        chat = Conversation(engine, tokenizer, options, room)
        if sys.stdin.isatty():
            print_notes([HELP])
        for line in _lines():
            if line.strip() == "/exit":
                return
            if line.strip() == "/new":
                chat.begin()
            elif line.strip():
                _say(chat, line)


@dataclass(slots=True)
class Conversation:
    """Turns so far, and an engine that goes on with them."""

    engine: Engine
    tokenizer: Tokenizer
    options: ChatOptions
    room: int
    turns: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Anew."""
        system = self.options.system
        self.turns = [{"role": "system", "content": system}] if system is not None else []

    def answer(self, text: str) -> Generator[str]:
        """The answer to what was said, in pieces; what of it was given out is a turn, even where
        it is not listened to until its end. Raises PromptError, and then nothing was said."""
        turns = [*self.turns, {"role": "user", "content": text}]
        request = self._request(turns)
        self.turns, said = turns, ""
        try:
            with closing(pieces_of(stream(self.engine, request), self.tokenizer)) as pieces:
                for piece in pieces:
                    said += piece
                    yield piece
        finally:
            self.turns.append({"role": "assistant", "content": said})

    def _request(self, turns: list[dict[str, str]]) -> Request:
        tokenizer, options = self.tokenizer, self.options
        ids = tokenizer.encode_chat(turns)
        if (left := self.room - len(ids)) < 1:
            raise PromptError(
                f"the conversation has {len(ids)} tokens, and there is room for {self.room}; "
                "/new begins anew"
            )
        sampling = Sampling(options.temperature, 0, options.top_p, options.seed)
        wanted = min(options.max_tokens or left, left)
        adapter = ADAPTER if options.adapter else ""
        return Request(tuple(ids), wanted, sampling, tokenizer.stop_ids, adapter=adapter)


def _lines() -> Iterator[str]:
    """What is typed, or comes from a file or a pipe."""
    if not sys.stdin.isatty():
        yield from (line.rstrip("\n") for line in input_lines())
        return
    with contextlib.suppress(ImportError):
        import_module("readline")  # gives `input` arrows and a history
    while True:
        try:
            yield input(MARK)
        except EOFError:
            print_text("\n")
            return


def _say(chat: Conversation, text: str) -> None:
    """Print the answer as it comes, until Ctrl-C."""
    with _interruptible() as interrupted, closing(chat.answer(text)) as pieces:
        try:
            for piece in pieces:
                print_text(piece)
                if interrupted:
                    break
            print_text("\n")
        except PromptError as error:
            print_notes([str(error)])


@contextlib.contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Ctrl-C puts something into this list, and does nothing else."""
    interrupts: list[int] = []
    before = signal.signal(signal.SIGINT, lambda signum, frame: interrupts.append(signum))
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)
