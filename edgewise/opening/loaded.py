"""A model that answers, for Python programs: `edgewise.load`."""

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TypedDict, Unpack

from edgewise.cluster_files import load_cluster
from edgewise.clusters import Cluster
from edgewise.errors import InputError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.tokenizer import Tokenizer, load_tokenizer
from edgewise.opening.adapters import open_adapters
from edgewise.opening.answer import Tokens, pieces_of
from edgewise.opening.asking import request_of
from edgewise.opening.engine import open_wanted, this_machine
from edgewise.opening.wanted import Wanted
from edgewise.plans import Plan
from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.engine import Request, Token
from edgewise.runtime.limits import limits_of
from edgewise.runtime.stats import Stats
from edgewise.schemes import CacheType, Wire
from edgewise.specs import ModelSpec, Vote, Workload

log = logging.getLogger(__name__)


class Options(TypedDict, total=False):
    """Of an answer. `raw`: without the model's chat template; `max_tokens`: 128 where the context
    suffices; `temperature`: 0, always the likeliest token; `top_k` (0: all) and `top_p` (1: all):
    among how many, and what share of probability; `seed`: of the choices; `adapter`: the name of
    one, "" for the model as it is."""

    raw: bool
    max_tokens: int | None
    temperature: float
    top_k: int
    top_p: float
    seed: int
    adapter: str


class LoadedModel:
    """A model on its devices, for one thread. Several streams may be read by turns. `engine` takes
    requests of your own (`edgewise.runtime.engine`), while no stream is read."""

    def __init__(self, engine: Coordinator, tokenizer: Tokenizer, spec: ModelSpec) -> None:
        self.engine = engine
        self._tokenizer, self._spec = tokenizer, spec
        self._context = limits_of(engine.workload, spec.max_context).context
        self._arrived: dict[int, deque[Token]] = {}  # by request
        self._closed = False

    @property
    def plan(self) -> Plan:
        """Which device runs which layers now: another plan after a device was lost."""
        return self.engine.plan

    def generate(
        self, prompt: str, *, stop: str | Sequence[str] = (), **options: Unpack[Options]
    ) -> str:
        """The whole answer; everything as in `stream`."""
        return "".join(self.stream(prompt, stop=stop, **options))

    def stream(
        self, prompt: str, *, stop: str | Sequence[str] = (), **options: Unpack[Options]
    ) -> Iterator[str]:
        """The answer in pieces, as soon as they are certain, up to a text in `stop`; `Options` are
        max_tokens, temperature, top_k, top_p, seed, adapter and raw. Whoever stops reading
        cancels it. Raises PromptError, Infeasible and DeviceError."""
        if self._closed:
            raise InputError("this model is closed; load it again")
        request = request_of(prompt, self._tokenizer, self._spec, self._context, **options)
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        return pieces_of(self._tokens(request), self._tokenizer, stops)

    def _tokens(self, request: Request) -> Tokens:
        number = self.engine.submit(request)
        mine = self._arrived[number] = deque[Token]()
        try:
            while True:
                while not mine:
                    self._step()
                token = mine.popleft()
                yield token
                if token.finish is not None:
                    return
        finally:
            del self._arrived[number]
            self.engine.cancel(number)

    def _step(self) -> None:
        for token in self.engine.step():
            if token.request in self._arrived:
                self._arrived[token.request].append(token)

    def stats(self) -> Stats:
        """Requests, tokens, times, and what stages and links do."""
        return self.engine.stats()

    def close(self) -> None:
        """End every process. May be called twice."""
        self._closed = True
        self.engine.close()

    def __enter__(self) -> "LoadedModel":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def load(
    model: str | Path,
    *,
    cluster: Cluster | str | Path | None = None,
    plan: Plan | str | Path | None = None,
    scheme: str | None = None,
    quality: str | None = None,
    private: str | Path | None = None,
    sequences: int = 1,
    prompt_tokens: int = 512,
    new_tokens: int = 256,
    kv_cache: CacheType | str = CacheType.FULL,
    wire: Wire | str = Wire.FP32,
    adapters: Mapping[str, str | Path] | None = None,
    vote: Vote | str = Vote.CONFIDENCE,
) -> LoadedModel:
    """A folder, a GGUF file, a hub's id or a name (`smollm2`, `demo`), ready to answer: on the
    devices of a cluster, by default on this machine.

    At most one of `plan`, `scheme` ("4bit") and `quality` ("1%": loss it may add) decides how
    weights are stored; by default in the most bits that fit. There is room for `sequences` requests
    at a time, each of so many tokens in and out, or as many as the model's context allows. A device
    that is lost is planned around, but where `plan` or `private` was given: a folder of private
    adapters, of which M stays on the source, while blocks are on the other devices. `adapters` are
    folders by the names that answers ask for them by; exits of those of windows `vote`:
    "confidence", "average" or "last". Raises EdgewiseError.
    """
    model, checkpoint = str(model), open_checkpoint(str(model))
    spec = checkpoint.spec
    for text in checkpoint.notes:
        log.info(text)
    if cluster is None:
        cluster = this_machine()
    try:
        kept = CacheType(kv_cache), Wire(wire)
        workload, how = Workload(prompt_tokens, new_tokens, sequences, 1, *kept), Vote(vote)
    except ValueError as error:
        raise InputError(str(error)) from None
    wanted = Wanted(
        model,
        cluster if isinstance(cluster, Cluster) else load_cluster(Path(cluster)),
        _within(workload, spec),
        plan if isinstance(plan, Plan | None) else Plan.load(Path(plan)),
        scheme,
        quality,
        None if private is None else Path(private),
        adapters=open_adapters(adapters or {}, checkpoint, how),
    )
    tokenizer = load_tokenizer(model)
    return LoadedModel(open_wanted(wanted, note=log.info), tokenizer, spec)


def _within(workload: Workload, spec: ModelSpec) -> Workload:
    """Both lengths in proportion, where the model's context is shorter."""
    if workload.context <= spec.max_context:
        return workload
    prompt = max(spec.max_context * workload.prompt_tokens // workload.context, 1)
    return replace(workload, prompt_tokens=prompt, new_tokens=spec.max_context - prompt)
