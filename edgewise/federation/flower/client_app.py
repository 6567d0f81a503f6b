"""What a SuperNode runs for each message: a client's answer, from its own data.

Flower starts a process for each: it loads the model anew, and what is to be remembered lies in the
context, which the SuperNode keeps."""

from functools import cache
from pathlib import Path

import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod
from flwr.clientapp.typing import ClientAppCallable

from edgewise.errors import EdgewiseError, InputError
from edgewise.federation.flower.messages import (
    CLIENT,
    about,
    ask_of,
    is_hello,
    parcel_of,
    parcel_record,
)
from edgewise.federation.learner import Learner, begin
from edgewise.federation.model import load_shared
from edgewise.federation.settings import FederatedSettings
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.tokenizer import load_tokenizer
from edgewise.tuning.lessons import Lesson, lessons_of, split
from edgewise.tuning.records import read_records

MEMORY = "memory."  # before the names of the context's records


def private(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Flower's local differential privacy, where the settings ask for it: what a client adds to a
    round is clipped, and normal noise put on it, by (epsilon, delta) a round."""
    settings = FederatedSettings.from_config(context.run_config)
    answer = call_next(message, context)
    if settings.epsilon <= 0 or not answer.content.array_records:  # a fault, as it is
        return answer
    mod = LocalDpMod(settings.clip, 2 * settings.clip, settings.epsilon, settings.delta)
    return mod(message, context, lambda *_: answer)


app = ClientApp()


@app.train(mods=[private])
def train(message: Message, context: Context) -> Message:
    return Message(_answer(message.content, context), reply_to=message)


@app.query()
def query(message: Message, context: Context) -> Message:
    return Message(_answer(message.content, context), reply_to=message)


def _answer(content: RecordDict, context: Context) -> RecordDict:
    """What a client sends: its name, and what was asked for or why there is none."""
    who = {"name": str(context.node_config.get("name", context.node_id))}
    record = RecordDict()
    try:
        settings = FederatedSettings.from_config(context.run_config)
        if is_hello(content):
            _lessons(settings, _data(context))
            who["digest"] = open_checkpoint(settings.model).spec.digest
        else:
            record = _asked(content, context, settings, who["name"])
    except EdgewiseError as error:
        who["fault"] = str(error)
    record[CLIENT] = about(who)
    return record


def _asked(
    content: RecordDict, context: Context, settings: FederatedSettings, name: str
) -> RecordDict:
    if threads := int(context.node_config.get("threads", 0)):
        torch.set_num_threads(threads)
    like = begin(settings)
    learned, held_out = _lessons(settings, _data(context))
    kept = RecordDict({
        key.removeprefix(MEMORY): x for key, x in context.state.items() if key.startswith(MEMORY)
    })  # fmt: skip
    model = cache(lambda: load_shared(settings))
    learner = Learner(settings, model, learned, held_out, name, parcel_of(kept, like))
    answer = parcel_record(learner.answer(ask_of(content, like)))
    for key, record in parcel_record(learner.memory).items():
        context.state[MEMORY + key] = record
    return answer


def _data(context: Context) -> Path:
    if not (path := context.node_config.get("data")):
        raise InputError("this SuperNode has no data: start it with --node-config 'data=\"FILE\"'")
    return Path(str(path))


def _lessons(settings: FederatedSettings, path: Path) -> tuple[list[Lesson], list[Lesson]]:
    tokenizer = load_tokenizer(settings.model)
    lessons = lessons_of(read_records(path), tokenizer, settings.longest)
    return split(lessons, settings.held_out, settings.seed)
