"""What clients send, as OpenAI's API has it; what we do not know of it is ignored."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgewise.runtime.scores import MOST_TOP

MOST_ANSWERS = 16  # to one prompt
MOST_PROMPTS = 64
MOST_STOPS = 16
MOST_BIASES = 1024

Penalty = Annotated[float, Field(ge=-2, le=2)]
Top = Annotated[int, Field(ge=0, le=MOST_TOP)]
Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class Body(BaseModel):
    """Where a field is null, it is as if it were not there."""

    model_config = ConfigDict(allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {name: value for name, value in data.items() if value is not None}


class StreamOptions(Body):
    """`include_usage`: a last chunk says how many tokens there were."""

    include_usage: bool = False


class Schema(Body):
    """A JSON schema by name."""

    name: str = ""
    schema_: Annotated[dict[str, Any], Field(alias="schema")] = {"type": "object"}


class ResponseFormat(Body):
    """What an answer must look like."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: Schema = Schema()


class Generation(Body):
    """What chats and completions have in common."""

    model: str = ""
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1, le=2**31)] = 0  # -1 as 0: all
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] = 1.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: Annotated[
        dict[Annotated[int, Field(ge=0)], Annotated[float, Field(ge=-100, le=100)]],
        Field(max_length=MOST_BIASES),
    ] = {}
    deadline_ms: Annotated[float | None, Field(gt=0)] = None
    min_quality: Annotated[float | None, Field(ge=0, le=1)] = None
    seed: int | None = None
    n: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] = 1
    stop: str | Annotated[list[str], Field(max_length=MOST_STOPS)] = []
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    response_format: ResponseFormat = ResponseFormat()

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop


class TextPart(Body):
    """A part of a message's content: text only."""

    type: Literal["text"]
    text: str


class Function(Body):
    """A function that was called, `arguments` as JSON."""

    name: str
    arguments: str = "{}"


class ToolCall(Body):
    """A call that an earlier answer made."""

    id: str = ""
    type: Literal["function"] = "function"
    function: Function


class ChatMessage(Body):
    """One turn of a conversation."""

    role: str
    content: str | list[TextPart] = ""
    name: str = ""
    tool_calls: list[ToolCall] = []
    tool_call_id: str = ""

    def turn(self) -> dict[str, Any]:
        """As chat templates take it: arguments as objects."""
        content = self.content
        if not isinstance(content, str):
            content = "".join(part.text for part in content)
        turn: dict[str, Any] = {"role": self.role, "content": content}
        if self.name:
            turn["name"] = self.name
        if self.tool_call_id:
            turn["tool_call_id"] = self.tool_call_id
        if self.tool_calls:
            turn["tool_calls"] = [_call(call) for call in self.tool_calls]
        return turn


class ToolFunction(Body):
    """A function that may be called."""

    model_config = ConfigDict(extra="allow")
    name: Annotated[str, Field(min_length=1)]
    parameters: dict[str, Any] = {}


class Tool(Body):
    """A tool that may be called."""

    type: Literal["function"]
    function: ToolFunction


class ToolName(Body):
    name: str


class ToolChoice(Body):
    """One tool that must be called."""

    type: Literal["function"]
    function: ToolName


class ChatRequest(Generation):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    logprobs: bool = False
    top_logprobs: Top = 0
    tools: list[Tool] = []
    tool_choice: Literal["none", "auto", "required"] | ToolChoice = "auto"
    chat_template_kwargs: dict[str, Any] = {}


class CompletionRequest(Generation):
    """The body of /v1/completions. Prompts are texts or token ids."""

    prompt: (
        str
        | Ids
        | Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS)]
        | Annotated[list[Ids], Field(min_length=1, max_length=MOST_PROMPTS)]
    )
    max_tokens: Annotated[int, Field(ge=0)] = 16
    logprobs: Top | None = None
    echo: bool = False

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt


def _call(call: ToolCall) -> dict[str, Any]:
    try:
        arguments = json.loads(call.function.arguments)
    except (
        ValueError,
        RecursionError,
    ):  # what a model made up: the template is to have it as it is
        arguments = call.function.arguments
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}
