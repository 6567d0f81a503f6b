"""What clients send, as OpenAI's API has it; what we do not know of it is ignored."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field


class TextPart(BaseModel):
    """A part of a message's content: text only."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One turn of a conversation."""

    role: str
    content: str | list[TextPart]

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    """`include_usage`: a last chunk says how many tokens there were."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """The body of /v1/chat/completions. OpenAI's has no `deadline_ms`, by which the answer is to be
    whole, and no `min_quality`: see `Request`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    model: str = ""
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: int | None = None
    stop: str | list[str] | None = None
    deadline_ms: Annotated[float | None, Field(gt=0)] = None
    min_quality: Annotated[float | None, Field(ge=0, le=1)] = None
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()

    @property
    def stops(self) -> list[str]:
        stop = self.stop or []
        return [stop] if isinstance(stop, str) else stop
