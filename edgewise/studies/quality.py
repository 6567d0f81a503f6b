"""What few bits cost a real model: recipes and rounding methods, additivity, mixed and uniform
plans; and the built-in model's answers. No paper's figures are beside ours."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from torch import Tensor

from edgewise.models.checkpoint import open_checkpoint
from edgewise.planning.highs import Program
from edgewise.planning.tables import Floats
from edgewise.plots import save_lines, save_scatter
from edgewise.quality.calibration import ENGLISH, Calibration, sequences
from edgewise.quality.evaluate import measure_quality
from edgewise.quality.examples import load_examples
from edgewise.quality.plan_loss import plan_losses
from edgewise.quality.rounding import rounding_for
from edgewise.quality.sensitivity import measure_sensitivity
from edgewise.quantization import METHODS
from edgewise.quantization.store import Store
from edgewise.schemes import CANDIDATES, RECIPES, Family, get_scheme
from edgewise.sensitivities import Sensitivity
from edgewise.studies.page import Figure, OnStep, Page, Section, Value, quietly

MODEL, BUILT_IN = "smollm2", "demo"
RECIPES_SHOWN = ("bf16", "stored", *RECIPES)
ROUNDINGS = ("plain", "nearest", "gptq")  # plain: without statistics of inputs
ANSWERED = (
    "fp32", "bf16", "q8g64", "q6g64", "q5g64", "q4g32", "q4g64", "q4g64a", "q4g128", "q3g32",
    "q3g64", "q3g64a", "q2g32", "q2g64", "q2g64a", "t8", "t6", "t4",
)  # fmt: skip
MIXED = CANDIDATES
UNIFORM = MIXED[:-1]
QUESTIONS, PLANS, WORST = 100, 60, 5
MOST_LOSS = 1.0  # nats per token that random plans may lose: nobody runs what loses more
MEASURED_ON, HELD_OUT = Calibration(), Calibration(count=32, seed=2)
OTHERS = Calibration(ENGLISH, count=32)


def quality_page(
    model: str = MODEL,
    on_step: OnStep = quietly,
    *,
    recipes: Sequence[str] = RECIPES_SHOWN,
    plans: int = PLANS,
    answered: Sequence[str] = ANSWERED,
    questions: int = QUESTIONS,
) -> Page:
    """Raises ModelError where there is no checkpoint, InputError for a Python without its
    documentation."""
    store = Store.default()
    held_out = sequences(model, HELD_OUT)
    ids, method = sequences(model, MEASURED_ON), rounding_for(model, MIXED)
    sensitivity = measure_sensitivity(model, MIXED, ids, method=method, store=store)
    on_step("sensitivity")
    sections = (
        recipes_section(model, recipes, held_out, store, on_step),
        additivity_section(model, sensitivity, held_out, store, plans),
        frontier_section(model, sensitivity, held_out, store),
        answers_section(answered, questions, store, on_step),
    )
    text = TEXT.format(model=model, reference=sensitivity.reference)
    return Page("quality", f"What few bits cost `{model}`", text, sections)


TEXT = (
    f"KL, in nats per token, on {HELD_OUT.count} x {HELD_OUT.length} tokens that `{{model}}` wrote "
    "itself (its own loss there is about {reference:.3f}), text that nothing was fitted to."
)


def recipes_section(
    model: str, recipes: Sequence[str], held_out: Tensor, store: Store | None, on_step: OnStep
) -> Section:
    """What schemes cost throughout the model, by every way to round."""
    spec, english = open_checkpoint(model).spec, sequences(model, OTHERS)
    rows: list[tuple[Value, ...]] = []
    for name in recipes:
        schemes = tuple(layer.concrete(get_scheme(name)).name for layer in spec.layers)
        rounded = get_scheme(name).family is Family.RECIPE
        for rounding in ROUNDINGS if rounded else ("-",):
            by = rounding_for(model, schemes, rounding) if rounding in ROUNDINGS[1:] else None
            own, other = (
                plan_losses(model, [schemes], ids, method=by, store=store)[0]
                for ids in (held_out, english)
            )
            rows.append((name, f"{schemes[1]}, ends {schemes[-1]}", rounding,
                         spec.weight_bytes(schemes), own.mean, other.mean))  # fmt: skip
            on_step(f"{name}, {rounding}")
    caption = (
        "How a recipe stores blocks and ends, and what it loses by every way to round; English: "
        "pieces of Python's documentation."
    )
    columns = ("recipe", "stored in", "rounding", "bytes", "KL", "KL, English")
    return Section("Recipes", caption, columns, tuple(rows))


def answers_section(
    schemes: Sequence[str], questions: int, store: Store | None, on_step: OnStep
) -> Section:
    """What schemes and rounding methods cost the answers of the built-in model."""
    examples, rows = load_examples(None, questions), list[tuple[Value, ...]]()
    layers = open_checkpoint(BUILT_IN).config.num_layers
    for name in schemes:
        for method in METHODS.get(get_scheme(name).family, {"-": None}):
            by = None if method == "-" else rounding_for(BUILT_IN, [name], method)
            measured = measure_quality(BUILT_IN, (name,) * layers, examples, method=by, store=store)
            rows.append(
                (name, method, measured.weight_bytes, measured.kl, measured.loss,
                 f"{measured.perplexity:.5f}", measured.bleu, f"{measured.exact_match:.1%}")
            )  # fmt: skip
            on_step(f"{BUILT_IN}: {name}, {method}")
    columns = ("scheme", "rounding", "bytes", "KL of answers", "loss of answers", "perplexity",
               "BLEU", "exact match")  # fmt: skip
    caption = f"Greedy answers to {questions} held-out questions of the demo."
    return Section(f"The built-in model, `{BUILT_IN}`", caption, columns, tuple(rows))


def additivity_section(
    model: str, sensitivity: Sensitivity, held_out: Tensor, store: Store | None, count: int
) -> Section:
    """Random plans: the sum of what layers lose one by one, against what the plan loses."""
    plans = random_plans(sensitivity, count)
    predicted = [predicted_loss(sensitivity, plan) for plan in plans]
    method = rounding_for(model, MIXED)
    measured = [x.mean for x in plan_losses(model, plans, held_out, method=method, store=store)]
    ratio = np.array(measured) / np.array(predicted)
    worst = np.argsort(-np.abs(np.log(ratio)))[:WORST]
    rows = tuple(
        (int(i), predicted[i], measured[i], float(ratio[i]), _counts(plans[i])) for i in worst
    )
    caption = (
        f"{count} random plans that are predicted to lose {MOST_LOSS:g} at most. Rank correlation "
        f"of predicted and measured loss: **{rank_correlation(predicted, measured):.3f}**; "
        f"measured / predicted: median {np.median(ratio):.2f}, 5 % to 95 % "
        f"{np.quantile(ratio, 0.05):.2f} to {np.quantile(ratio, 0.95):.2f}. The worst:"
    )
    draw = partial(
        save_scatter, predicted, measured, title=f"{model}: is loss additive over layers?",
        x="predicted: sum over layers (nats per token)", y="measured (nats per token)",
    )  # fmt: skip
    columns = ("plan", "predicted", "measured", "ratio", "schemes")
    return Section("Additivity", caption, columns, rows, Figure("quality-additivity", draw))


def random_plans(sensitivity: Sensitivity, count: int, seed: int = 0) -> list[tuple[str, ...]]:
    """Plans whose layers lean towards wide or narrow schemes, each plan by another degree."""
    rng, names = np.random.default_rng(seed), list(sensitivity.losses)
    layers, plans = len(sensitivity.losses[names[0]]), list[tuple[str, ...]]()
    while len(plans) < count:
        centre, width = rng.uniform(0, len(names) - 1), rng.uniform(0.3, 2.0)
        odds = np.exp(-(((np.arange(len(names)) - centre) / width) ** 2))
        plan = tuple(rng.choice(names, layers, p=odds / odds.sum()).tolist())
        if predicted_loss(sensitivity, plan) <= MOST_LOSS and len(set(plan)) > 1:
            plans.append(plan)
    return plans


def predicted_loss(sensitivity: Sensitivity, plan: Sequence[str]) -> float:
    """The sum of what its layers lose one by one."""
    return sum(sensitivity.losses[name][layer] for layer, name in enumerate(plan))


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's, of values without ties."""
    first, second = (np.argsort(np.argsort(x)).astype(float) for x in (a, b))
    first, second = first - first.mean(), second - second.mean()
    return float(first @ second / np.sqrt((first @ first) * (second @ second)))


def _counts(plan: Sequence[str]) -> str:
    return ", ".join(f"{name} x{plan.count(name)}" for name in MIXED if name in plan)


def frontier_section(
    model: str, sensitivity: Sensitivity, held_out: Tensor, store: Store | None
) -> Section:
    """At every uniform plan's bytes the mixed plan of least predicted loss; at its predicted loss
    the mixed plan of fewest bytes. Both are then measured."""
    loss, size = _tables(model, sensitivity)
    uniform = [(name,) * loss.shape[1] for name in UNIFORM]
    best = [least_loss(loss, size, _bytes(size, plan)) for plan in uniform]
    small = [fewest_bytes(loss, size, predicted_loss(sensitivity, plan)) for plan in uniform]
    kinds, method = (uniform, best, small), rounding_for(model, MIXED)
    outcomes = plan_losses(model, [*uniform, *best, *small], held_out, method=method, store=store)
    losses = np.array([x.mean for x in outcomes]).reshape(len(kinds), -1)
    sizes = np.array([[_bytes(size, plan) for plan in plans] for plans in kinds])
    rows: tuple[tuple[Value, ...], ...] = tuple(
        (name, int(sizes[0, i]), losses[0, i], losses[1, i], 1 - losses[1, i] / losses[0, i],
         int(sizes[2, i]), losses[2, i], 1 - sizes[2, i] / sizes[0, i])
        for i, name in enumerate(UNIFORM)
    )  # fmt: skip
    caption = "A scheme per layer, chosen by predicted loss; all losses are measured."
    columns = ("scheme", "bytes", "KL", "KL mixed, same bytes", "less loss",
               "bytes mixed, same loss", "its KL", "fewer bytes")  # fmt: skip
    figure = _frontier_figure(model, losses, sizes / 1e6)
    return Section("Mixed against uniform", caption, columns, rows, figure)


def _frontier_figure(model: str, losses: Floats, megabytes: Floats) -> Figure:
    lines = {
        name: (losses[i].tolist(), megabytes[i].tolist())
        for i, name in enumerate(("one scheme", "a scheme per layer"))
    }
    draw = partial(
        save_lines, lines, title=f"{model}: loss and weights", x="measured KL, nats per token",
        y="weights, MB", log_x=True,
    )  # fmt: skip
    return Figure("quality-frontier", draw)


def _tables(model: str, sensitivity: Sensitivity) -> tuple[Floats, Floats]:
    """Predicted loss and bytes [scheme, layer] of the schemes that were measured."""
    spec = open_checkpoint(model).spec
    loss = np.array([sensitivity.losses[name] for name in MIXED])
    size = np.array(
        [[layer.weight_bytes(get_scheme(name)) for layer in spec.layers] for name in MIXED], float
    )
    return loss, size


def _bytes(size: Floats, plan: Sequence[str]) -> int:
    return int(sum(size[MIXED.index(name), layer] for layer, name in enumerate(plan)))


def least_loss(loss: Floats, size: Floats, most: float) -> tuple[str, ...]:
    """The schemes of least predicted loss within so many bytes."""
    return _least(loss, size, most)


def fewest_bytes(loss: Floats, size: Floats, most: float) -> tuple[str, ...]:
    """The schemes of fewest bytes within a predicted loss."""
    return _least(size, loss, most)


def _least(cost: Floats, weight: Floats, most: float) -> tuple[str, ...]:
    """min sum cost s.t. sum weight <= most, one scheme [S] per layer [L]: an integer program."""
    program = Program()
    unit = max(float(cost.max()), 1e-300)
    chosen = program.columns(cost.shape, cost / unit)
    for layer in range(cost.shape[1]):
        program.row(1, 1, (chosen[:, layer], 1.0))
    program.row(0.0, 1.0, (chosen, weight / (most * (1 + 1e-9))))
    values = program.solve(20.0).values[chosen]
    return tuple(MIXED[i] for i in values.argmax(axis=0))
