"""A model a quarter smaller in several ways, each judged by the same texts and questions."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import torch
from torch import Tensor

from edgewise.models.checkpoint import Checkpoint, open_checkpoint
from edgewise.models.config import DecoderConfig
from edgewise.models.decoder import Block, MlpBlock
from edgewise.quality.calibration import ENGLISH, Calibration
from edgewise.quality.rounding import collected
from edgewise.quantization.rounding import calibrated
from edgewise.schemes import RECIPES
from edgewise.shortening.distilling import Distillation, DistillationStep
from edgewise.shortening.judging import PRECISION, token_nats
from edgewise.shortening.recipe import DistillationRecipe
from edgewise.shortening.replacement import RATES, Replacement
from edgewise.shortening.shorten import ShorterModel
from edgewise.shortening.spans import (
    BlockSpan,
    check_dropped,
    kept_blocks,
    most_similar,
    span_similarities,
)
from edgewise.specs import LayerKind, ModelSpec
from edgewise.studies.page import OnStep
from edgewise.studies.streamline.choices import CONTEXT, OPTIONS, stability
from edgewise.studies.streamline.texts import StudyTexts

SMALLER_BY = 0.25  # of all parameters
FEW_BITS, TOLD_EVERY = "4bit", 10
ROUNDED_BY = Calibration(ENGLISH, 32, 128, seed=1)  # text that weights are rounded by
FULL = "full"
DISTILLED = {Replacement.BLOCK: "one learns by states", Replacement.MLP: "an MLP learns by states"}
THEN_WORDS = {Replacement.BLOCK: "then by words", Replacement.MLP: "the MLP, then by words"}
STILL, GONE = "the first of them alone", "that span without replacement"


@dataclass(frozen=True)
class JudgedModel:
    """A model's blocks, parameters and bytes, and what it says: nats a token on text like what was
    learned and on other text; the share of questions answered rightly, how stable that is, and how
    often it is right where the full model is, and wrong where that is."""

    name: str
    blocks: int
    parameters: int
    size: int
    own: float
    other: float
    accuracy: float
    stability: float
    agreement: float


@dataclass
class Streamlined:
    """All that was measured. `similarities` by length of the span; by what learned, its steps, and
    bytes of memory before learning and at most during it; of how many questions stability really
    is."""

    model: str
    spec: ModelSpec
    dropped: int
    span: BlockSpan
    similarities: Mapping[int, list[float]]
    judged: list[JudgedModel] = field(default_factory=list)
    steps: dict[Replacement, list[DistillationStep]] = field(default_factory=dict)
    memory: dict[Replacement, tuple[int, int]] = field(default_factory=dict)
    questions: float = 0.0


def parameters(spec: ModelSpec, *, ends: bool = True) -> int:
    """Numbers of a model, a shared matrix once; or of its blocks alone."""
    if ends:
        return spec.weight_bytes(["fp32"] * spec.num_layers) // 4
    blocks = (layer for layer in spec.layers if layer.kind is LayerKind.BLOCK)
    return sum(sum(r * c for r, c in x.matrices) + x.other_weights for x in blocks)


def shorter_spec(spec: ModelSpec, blocks: int) -> ModelSpec:
    """Of as many of its blocks, which are all alike."""
    return replace(spec, layers=(*spec.layers[: blocks + 1], spec.layers[-1]))


def with_mlp(spec: ModelSpec, config: DecoderConfig) -> ModelSpec:
    """The same with an MLP in the place of one of its blocks, which are all alike."""
    mlp = replace(config, mlp_blocks=(0,)).spec(spec.name).layers[1]
    return replace(spec, layers=(spec.layers[0], mlp, *spec.layers[2:]))


def blocks_to_drop(spec: ModelSpec) -> int:
    """The fewest that are a quarter of all parameters; one stays at least."""
    most, blocks = (1 - SMALLER_BY) * parameters(spec), spec.num_blocks
    enough = (n for n in range(1, blocks) if parameters(shorter_spec(spec, blocks - n)) <= most)
    return next(enough, max(blocks - 1, 1))


class Judge:
    """Judges models beside the full one, which comes first."""

    def __init__(self, texts: StudyTexts, result: Streamlined, on_step: OnStep) -> None:
        self.texts, self.result, self.on_step = texts, result, on_step
        self._original = torch.empty(0)

    def judge(
        self,
        name: str,
        checkpoint: Checkpoint,
        blocks: list[int] | None = None,
        changed: Mapping[int, Block] | None = None,
        scheme: str = PRECISION,
        method: str | None = None,
    ) -> None:
        """The model of some `blocks` of a checkpoint, in a scheme (see token_nats)."""
        texts, spec = self.texts, checkpoint.spec
        count = spec.num_blocks if blocks is None else len(blocks)

        def nats(ids: Tensor, first: int = 1) -> Tensor:
            return token_nats(
                checkpoint, ids, blocks=blocks, changed=changed, first=first, scheme=scheme,
                method=method,
            )  # fmt: skip

        shape = shorter_spec(spec, count)
        if any(isinstance(block, MlpBlock) for block in (changed or {}).values()):
            shape = with_mlp(shape, checkpoint.config)
        said = nats(texts.choices.ids.flatten(0, 1), CONTEXT).mean(1).view(-1, OPTIONS)
        if not len(self._original):
            self._original = said
        was_right, right = (texts.choices.are_right(x) for x in (self._original, said))
        stable, self.result.questions = stability(self._original, was_right, right)
        self.result.judged.append(JudgedModel(
            name, count, parameters(shape), shape.weight_bytes([scheme] * (count + 2)),
            float(nats(texts.own).mean()), float(nats(texts.other).mean()),
            float(right.double().mean()), stable, float((was_right == right).double().mean()),
        ))  # fmt: skip
        self.on_step(name)


def streamlined(
    model: str, texts: StudyTexts, recipe: DistillationRecipe, on_step: OnStep
) -> Streamlined:
    """Every way. Raises InputError, ModelError where no block can be dropped."""
    checkpoint = open_checkpoint(model)
    config, spec = checkpoint.config, checkpoint.spec
    dropped = blocks_to_drop(spec)
    check_dropped(checkpoint, dropped)
    lengths = (1, dropped, dropped + 1)
    similarities = span_similarities(checkpoint, texts.looked_at, lengths)
    on_step("similarities")
    span = most_similar(similarities[dropped + 1], dropped + 1)
    result = Streamlined(model, spec, dropped, span, similarities)
    judge = Judge(texts, result, on_step)
    judge.judge(FULL, checkpoint)
    judge.judge(f"{span}: {GONE}", checkpoint, kept_blocks(config, span, False))
    judge.judge(f"{span}: {STILL}", checkpoint, kept_blocks(config, span, True))
    for name, other in other_spans(config.num_blocks, dropped, similarities[dropped]).items():
        judge.judge(f"without {other}, {name}", checkpoint, kept_blocks(config, other, False))
    shorter = distilled(checkpoint, judge, recipe, texts.learned)
    mlp = replace(recipe, replacement=Replacement.MLP, rate=RATES[Replacement.MLP])
    distilled(checkpoint, judge, mlp, texts.learned)
    with tempfile.TemporaryDirectory() as folder:
        shorter.write(Path(folder) / "shorter")
        compare_bits(model, str(Path(folder) / "shorter"), judge)
    return result


def other_spans(blocks: int, length: int, similarities: list[float]) -> dict[str, BlockSpan]:
    """Of as many blocks as are dropped in the end."""
    middle = (blocks - length) // 2
    return {
        "the most similar": most_similar(similarities, length),
        "the first": BlockSpan(0, length),
        "the middle": BlockSpan(middle, middle + length),
        "the last": BlockSpan(blocks - length, blocks),
    }


def distilled(
    checkpoint: Checkpoint, judge: Judge, recipe: DistillationRecipe, pieces: Tensor
) -> ShorterModel:
    """What one block, or an MLP, learns by states, judged, and then by words, judged again."""
    result, process, what = judge.result, psutil.Process(), recipe.replacement
    span, before = result.span, process.memory_info().rss
    distillation, most = Distillation(checkpoint, span, recipe, pieces), before
    blocks, steps = kept_blocks(checkpoint.config, span, True), list[DistillationStep]()
    for step in distillation.steps():
        steps.append(step)
        most = max(most, process.memory_info().rss)
        if step.number % TOLD_EVERY == 0:
            judge.on_step(f"step {step.number}, loss {step.loss:.3f}")
        if not step.by_words and step.number == recipe.steps - 1:
            learned = distillation.learned()
            judge.judge(f"{span}: {DISTILLED[what]}", checkpoint, blocks, {span.first: learned})
    result.steps[what], result.memory[what] = steps, (before, most)
    block = distillation.learned()
    if recipe.word_steps:
        judge.judge(f"{span}: {THEN_WORDS[what]}", checkpoint, blocks, {span.first: block})
    return ShorterModel(checkpoint, span, blocks, [], {span.first: block})


def compare_bits(model: str, shorter: str, judge: Judge) -> None:
    """The full model in as many bits as take no more bytes than the shorter one, in bf16 and in
    few bits."""
    for scheme in (PRECISION, FEW_BITS):
        there = open_checkpoint(shorter)
        size = there.spec.weight_bytes([scheme] * there.spec.num_layers)
        if scheme != PRECISION:
            judge.judge(f"shorter, in {scheme}", there, scheme=scheme, method=_method(shorter))
        if (name := widest_within(judge.result.spec, size)) is not None:
            whole = open_checkpoint(model)
            judge.judge(f"{FULL}, in {name}", whole, scheme=name, method=_method(model))


def widest_within(spec: ModelSpec, size: int) -> str | None:
    """The recipe of most bits in which a model takes so many bytes at most."""
    fit = (x for x in RECIPES if spec.weight_bytes([x] * spec.num_layers) <= size)
    return next(fit, None)


def _method(model: str) -> str | None:
    """Rounding as by default, by what matrices are multiplied with."""
    key = collected(model, ROUNDED_BY)
    return None if key is None else calibrated("nearest", key)
