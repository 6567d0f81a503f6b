"""/v1/chat/completions: conversations in, chunks out."""

import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgewise.errors import PromptError
from edgewise.models.tokenizer import Tokenizer
from edgewise.runtime.engine import Request
from edgewise.serving.answers import Answers, TextPiece
from edgewise.serving.chunks import Chunk, head, usage
from edgewise.serving.logprobs import chat_logprobs
from edgewise.serving.requests import Model, answer_grammar, requests_of
from edgewise.serving.schema import ChatRequest, ToolChoice
from edgewise.serving.tools import Call, ToolFormat, ToolReader, must_call, tool_format


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation as requests, one for each answer; `tools`: how calls are read from them;
    `name` is the model that is asked."""

    requests: Sequence[Request]
    tools: ToolFormat | None
    name: str

    def decode(self, tokenizer: Tokenizer) -> Callable[[Sequence[int]], str]:
        """Tokens to text, special ones that calls are written with among it."""
        keep = self.tools.keep if self.tools else ()
        return lambda ids: tokenizer.decode(ids, keep)


def chat_of(model: Model, body: ChatRequest, adapter: str = "") -> Chat:
    """Raises PromptError."""
    tokenizer = model.tokenizer
    tools = _tools(tokenizer, body)
    turns, switches = [message.turn() for message in body.messages], body.chat_template_kwargs
    given = [tool.model_dump(exclude_unset=True) for tool in body.tools] if tools else []
    ids = tokenizer.encode_chat(turns, given, switches)
    wanted = body.max_completion_tokens or body.max_tokens
    top = body.top_logprobs if body.logprobs else None
    grammar = answer_grammar(tokenizer, body.response_format)
    if tools is not None and body.tool_choice not in ("auto", "none"):
        grammar = must_call(tokenizer.grammars, tools, _functions(body))
    requests = requests_of(model, body, ids, wanted, top=top, grammar=grammar, adapter=adapter)
    return Chat(requests, tools, body.model or model.name)


async def chat_chunks(model: Model, chat: Chat, answers: Answers) -> AsyncIterator[Chunk]:
    """With the usage at their end, in a chunk without choices. Raises Refusal."""
    about = head("chat.completion.chunk", "chatcmpl", chat.name)
    readers = [ToolReader(chat.tools) if chat.tools else None for _ in chat.requests]
    for index in range(len(chat.requests)):
        yield about | {"choices": [_choice(index, {"role": "assistant", "content": ""})]}
    async for piece in answers.pieces():
        if choice := _of_piece(model.tokenizer, piece, readers[piece.index]):
            yield about | {"choices": [choice]}
    used = usage(len(chat.requests[0].prompt), answers.tokens)
    yield about | {"choices": [], "usage": used}


def _of_piece(tokenizer: Tokenizer, piece: TextPiece, reader: ToolReader | None) -> Chunk | None:
    """None where it says nothing yet."""
    text, calls, finish = piece.text, list[Call](), piece.finish
    if reader is not None:
        before = reader.calls
        text, calls = reader.push(text)
        if finish:
            rest, more = reader.flush()
            text, calls = text + rest, calls + more
        finish = "tool_calls" if finish == "stop" and reader.calls else finish
    if not (text or calls or finish or piece.scores):
        return None
    delta: dict[str, Any] = {"content": text} if text else {}
    if calls and reader is not None:
        delta["tool_calls"] = [_told(call, at) for at, call in enumerate(calls, before)]
    choice = _choice(piece.index, delta, finish)
    if piece.scores:
        choice["logprobs"] = chat_logprobs(piece.scores, tokenizer.text)
    return choice


def _choice(index: int, delta: dict[str, Any], finish: str = "") -> Chunk:
    return {"index": index, "delta": delta, "finish_reason": finish or None, "logprobs": None}


def _told(call: Call, index: int) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    name = f"call_{secrets.token_hex(12)}"
    return {"index": index, "id": name, "type": "function", "function": function}


def _tools(tokenizer: Tokenizer, body: ChatRequest) -> ToolFormat | None:
    """Raises PromptError where tools are given that the model does not know how to call."""
    if not body.tools or body.tool_choice == "none":
        return None
    known = tool_format(tokenizer.template)
    if known is None:
        raise PromptError("this model's chat template takes no tools that we know how to read")
    return known


def _functions(body: ChatRequest) -> list[dict[str, Any]]:
    """Those that may be called. Raises PromptError where there are none."""
    functions = [tool.function.model_dump(exclude_unset=True) for tool in body.tools]
    if isinstance(choice := body.tool_choice, ToolChoice):
        functions = [x for x in functions if x["name"] == choice.function.name]
        if not functions:
            raise PromptError(f"tool_choice: no tool is called '{choice.function.name}'")
    return functions
