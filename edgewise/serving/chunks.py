"""An answer as chunks, which a stream sends, and as a whole, which is chunks put together."""

import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from edgewise.serving.errors import Refusal, error_body

Chunk = dict[str, Any]


def head(kind: str, prefix: str, model: str) -> Chunk:
    """What is the same in all chunks of an answer."""
    name = f"{prefix}-{secrets.token_hex(12)}"
    return {"id": name, "object": kind, "created": int(time.time()), "model": model}


def usage(prompt: int, new: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


async def events(chunks: AsyncIterator[Chunk], with_usage: bool) -> AsyncIterator[str]:
    """Server-sent events, the last of which is [DONE]; what goes wrong is one, too."""
    try:
        async for chunk in chunks:
            if chunk["choices"] or with_usage:
                yield f"data: {json.dumps(chunk)}\n\n"
    except Refusal as error:
        yield f"data: {json.dumps(error_body(error.status, error.message, error.code))}\n\n"
        return
    yield "data: [DONE]\n\n"


async def folded(chunks: AsyncIterator[Chunk]) -> Chunk:
    """All chunks as one reply. Raises Refusal."""
    whole: Chunk = {}
    choices: dict[int, Chunk] = {}
    async for chunk in chunks:
        whole |= chunk
        for part in chunk["choices"]:
            part = {"message" if name == "delta" else name: x for name, x in part.items()}
            index = part["index"]
            choices[index] = _joined(choices[index], part) if index in choices else part
    whole["object"] = whole["object"].removesuffix(".chunk")
    for choice in choices.values():
        for call in choice.get("message", {}).get("tool_calls", ()):
            del call["index"]
    return whole | {"choices": [choices[index] for index in sorted(choices)]}


def _joined(a: Any, b: Any) -> Any:
    """Two parts of a reply that follow each other: texts and lists one behind the other, objects
    name by name; of other values the last that there is."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a | {name: _joined(a.get(name), value) for name, value in b.items()}
    if isinstance(a, str):
        return a + (b or "")
    if isinstance(a, list):
        return a + (b or [])
    return a if b is None else b
