"""One request of a client: to the host and back, as pieces of text."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from edgewise.errors import PromptError
from edgewise.hosting import Host
from edgewise.models.text_stream import TextStream
from edgewise.models.tokenizer import Tokenizer
from edgewise.runtime.engine import Request, Token
from edgewise.runtime.sampling import Sampling
from edgewise.serving.schema import ChatRequest

MOST_SEED = 2**31


class NoAnswer(Exception):
    """A request that ended without one; `args[0]` says why."""


@dataclass(slots=True)
class ChatAnswer:
    """`pieces` yields its text; `finish` and `tokens` are known at the end."""

    host: Host
    tokenizer: Tokenizer
    request: Request
    stops: list[str]
    finish: str = ""
    tokens: int = 0
    _queue: "asyncio.Queue[Token]" = field(default_factory=asyncio.Queue)

    async def pieces(self) -> AsyncIterator[str]:
        """Raises NoAnswer. Whoever stops listening cancels the request."""
        loop = asyncio.get_running_loop()

        def on_token(token: Token) -> None:
            loop.call_soon_threadsafe(self._queue.put_nowait, token)

        cancel = self.host.ask(self.request, on_token)
        text = TextStream(self.tokenizer.decode, self.stops)
        try:
            while not (self.finish or text.stopped):
                token = await self._queue.get()
                if token.finish == "error":
                    raise NoAnswer(token.error)
                self.tokens += 1
                self.finish = token.finish or ""
                if piece := "" if token.finish == "stop" else text.push(token.id):
                    yield piece
            if not text.stopped and (piece := text.flush()):
                yield piece
            self.finish = "stop" if text.stopped else self.finish
        finally:
            cancel()


def chat_request(tokenizer: Tokenizer, chat: ChatRequest, context: int) -> Request:
    """A conversation as token ids. Raises PromptError."""
    turns = [{"role": message.role, "content": message.text} for message in chat.messages]
    if tokenizer.has_chat_template:
        ids = tokenizer.encode_chat(turns)
    else:
        ids = tokenizer.encode("\n".join(turn["content"] for turn in turns))
    if len(ids) >= context:
        raise PromptError(f"the prompt has {len(ids)} tokens, but there is room for {context}")
    wanted = chat.max_completion_tokens or chat.max_tokens or context
    seed = random.randrange(MOST_SEED) if chat.seed is None else chat.seed % MOST_SEED
    sampling = Sampling(chat.temperature, 0, chat.top_p, seed)
    most, deadline = min(wanted, context - len(ids)), chat.deadline_ms and chat.deadline_ms / 1e3
    needs = deadline, chat.min_quality
    return Request(tuple(ids), most, sampling, tokenizer.stop_ids, *needs)
