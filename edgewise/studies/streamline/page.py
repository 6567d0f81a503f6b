"""LLM-Streamline made again on a model a hundred times smaller (arXiv 2403.19135). Believed values:
published/streamline.toml; how to read the page: docs/studies/streamline.md."""

import math
from functools import partial
from statistics import fmean

from edgewise.plots import save_lines
from edgewise.shortening.distilling import DistillationStep
from edgewise.shortening.recipe import DistillationRecipe
from edgewise.shortening.replacement import Replacement
from edgewise.studies.page import (
    Comparison,
    Figure,
    OnStep,
    Page,
    Section,
    Value,
    comparison_section,
)
from edgewise.studies.published import column_name, load_published
from edgewise.studies.streamline.measured import (
    DISTILLED,
    FULL,
    THEN_WORDS,
    JudgedModel,
    Streamlined,
    parameters,
    shorter_spec,
    streamlined,
)
from edgewise.studies.streamline.texts import handbook_pages, study_texts

RECIPE = DistillationRecipe(steps=200, word_steps=60, batch=4, length=256)
QUESTIONS, ROWS, ROW_LENGTH = 120, 24, 128
CHANCE = 0.25
TEXT = (
    "{model}, {blocks} blocks, of which {dropped} are to go: the fewest that are a quarter of its "
    "{count:.1f} M parameters, embedding and head among them ({share:.1%} of these, {inner:.1%} of "
    "the blocks' {own:.1f} M). Text: the Debian handbook, every fifth page held out; the other "
    "text is Python's documentation."
)


def streamline_page(model: str, on_step: OnStep) -> Page:
    """An hour of one core. Raises InputError where the handbook is not there."""
    texts = study_texts(
        model, handbook_pages(), length=RECIPE.length, rows=ROWS, row_length=ROW_LENGTH,
        questions=QUESTIONS,
    )  # fmt: skip
    return page_of(streamlined(model, texts, RECIPE, on_step))


def page_of(found: Streamlined) -> Page:
    spec, whole = found.spec, parameters(found.spec)
    smaller = shorter_spec(spec, spec.num_blocks - found.dropped)
    own = parameters(spec, ends=False)
    text = TEXT.format(
        model=spec.name, blocks=spec.num_blocks, dropped=found.dropped, count=whole / 1e6,
        share=1 - parameters(smaller) / whole, own=own / 1e6,
        inner=1 - parameters(smaller, ends=False) / own,
    )  # fmt: skip
    sections = (
        judged_section(found), similarity_section(found), learning_section(found),
        kept_section(found), tasks_section(),
    )  # fmt: skip
    return Page("streamline", "LLM-Streamline (arXiv 2403.19135)", text, sections)


def judged_section(found: Streamlined) -> Section:
    columns = ("model", "blocks", "M parameters", "MB", "perplexity", "on other text",
               "ratio right", "stability", "ratio as the full model")  # fmt: skip
    rows = tuple(
        (x.name, x.blocks, x.parameters / 1e6, x.size / 1e6, _perplexity(x.own),
         _perplexity(x.other), x.accuracy, x.stability, x.agreement)
        for x in found.judged
    )  # fmt: skip
    caption = (
        f"Perplexity on held-out pages, and on the other text, {ROWS} x {ROW_LENGTH} tokens each; "
        "questions: which of four continuations of 16 tokens is the true one (chance: "
        f"{CHANCE:.0%}). Stability is the paper's formula, which weighs so few questions that it "
        f"is of {found.questions:.1f} of them; beside it, of all alike, how many are right where "
        "the full model is and wrong where that is. bf16 where nothing is said."
    )
    return Section("What is left", caption, columns, rows)


def _perplexity(nats: float) -> Value:
    return math.exp(nats) if nats < math.log(1e6) else "> 1,000,000"


def similarity_section(found: Streamlined) -> Section:
    shown = {n: values for n, values in found.similarities.items() if n != found.dropped}
    series = {
        f"{n} block{'s' * (n > 1)}": ([float(i) for i in range(len(values))], values)
        for n, values in shown.items()
    }
    rows: tuple[tuple[Value, ...], ...] = tuple(
        (str(first), *(values[first] if first < len(values) else None for values in shown.values()))
        for first in range(max(map(len, shown.values())))
    )
    title = "Cosine of states before and behind a span"
    draw = partial(save_lines, series, title=title, x="its first block", y="cosine")
    caption = f"States as they are between blocks, not normalised. Chosen: {found.span}."
    return Section(title, caption, ("first block", *series), rows,
                   Figure("streamline-similarity", draw))  # fmt: skip


def learning_section(found: Streamlined) -> Section:
    rows = list[tuple[Value, ...]]()
    for what, steps in found.steps.items():
        for names, by_words in ((DISTILLED, False), (THEN_WORDS, True)):
            if its := [step for step in steps if step.by_words is by_words]:
                memory = (size / 1e6 for size in found.memory[what])
                rows.append((names[what], len(its), *_costs(its), *memory))
    columns = ("phase", "steps", "tokens", "minutes", "tokens/s", "first loss", "last loss",
               "MB before", "MB at most")  # fmt: skip
    caption = (
        "By states the loss is the share of what the span adds that is missing, by words nats a "
        "token; means of ten steps. Memory is the process's, before both phases and at most during "
        "them; states are kept for no longer than a step."
    )
    return Section("What learning took", caption, columns, tuple(rows))


def _costs(steps: list[DistillationStep]) -> tuple[Value, ...]:
    tokens, seconds = sum(x.tokens for x in steps), sum(x.seconds for x in steps)
    first, last = (fmean(x.loss for x in part) for part in (steps[:10], steps[-10:]))
    return tokens, seconds / 60, tokens / seconds, first, last


def kept_section(found: Streamlined) -> Section:
    full, published = _judged(found, FULL), load_published("streamline")["kept"]
    comparisons = []
    for name, cells in published.items():
        what = Replacement.MLP if "MLP" in name else Replacement.BLOCK
        by_words = "states" not in name
        states, words = _judged(found, DISTILLED[what]), _judged(found, THEN_WORDS[what])
        ours = (words or states) if by_words else states
        share = None if ours is None or full is None else ours.accuracy / full.accuracy
        comparisons.append(Comparison(name, share, cells["share"], "ours: " + (
            "by states, then by words" if by_words and words else "by states"
        )))  # fmt: skip
    caption = (
        "Share of right answers that is left. Theirs are of models fifty times as large, of tasks "
        "that are harder to guess right, and of a hundred times as much text."
    )
    return comparison_section("Beside the published values", caption, comparisons)


def tasks_section() -> Section:
    """Theirs: nothing of ours stands beside it."""
    tasks = load_published("streamline")["tasks"]
    columns = ("task", *(
        column_name(what, (row[key] for row in tasks.values()))
        for what, key in (("Llama-2-7B", "full"), ("30 % fewer parameters", "shorter"))
    ))  # fmt: skip
    rows: tuple[tuple[Value, ...], ...] = tuple(
        (name, row["full"].value, row["shorter"].value) for name, row in tasks.items()
    )
    caption = (
        "Accuracy in percent, of models that were not run here: what is lost depends on the task."
    )
    return Section("Their tasks", caption, columns, rows)


def _judged(found: Streamlined, name: str) -> JudgedModel | None:
    return next((x for x in found.judged if x.name.rpartition(": ")[2] == name), None)
