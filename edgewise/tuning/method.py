"""The ways to adapt a model."""

from enum import StrEnum


class TuningMethod(StrEnum):
    """`window`: a few blocks at a time, each window with an exit of its own (Edge-LLM). `lora`: all
    blocks at once. `private`: all at once, of which M alone is trained (PrivateLoRA)."""

    WINDOW = "window"
    LORA = "lora"
    PRIVATE = "private"
