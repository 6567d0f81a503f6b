"""The ways to adapt a model."""

from enum import StrEnum


class TuningMethod(StrEnum):
    """`window`: a few blocks at a time, each window with an exit of its own (Edge-LLM). `lora`: all
    blocks at once. `private`: all at once, of which M alone is trained (PrivateLoRA)."""

    WINDOW = "window"
    LORA = "lora"
    PRIVATE = "private"


class WindowOrder(StrEnum):
    """Which window a step trains. `batch`: each batch goes through all windows, one after the
    other; what the model as it is computes before a window has then been computed for the window
    before. `turns`: each window for its share of the steps, as Edge-LLM's published code has it.
    `random`: one by lot. A window learns on top of the model as it was, so the order changes no
    more than which batches a window sees."""

    BATCH = "batch"
    TURNS = "turns"
    RANDOM = "random"
