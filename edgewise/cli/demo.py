"""`edgewise demo`: the whole product in one command, on three emulated devices."""

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from edgewise.cli.answering import DemoOptions
from edgewise.cli.terminal import (
    bars,
    cluster_table,
    comparison_json,
    comparison_table,
    console,
    finite_values,
    plan_table,
    print_json,
    print_notes,
    print_text,
    progress,
    timing_table,
)
from edgewise.cluster_files import load_cluster
from edgewise.clusters import Cluster
from edgewise.costs import CostModel
from edgewise.demo import CLUSTER_FILE, REAL_CLUSTER_FILE
from edgewise.demo.questions import draw_questions, prompt
from edgewise.errors import ModelError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.named import named_file
from edgewise.models.tokenizer import Tokenizer, load_tokenizer
from edgewise.opening.answer import Answer, answer
from edgewise.opening.comparison import Outcomes, best, compare
from edgewise.opening.profile import measure_cluster
from edgewise.opening.promise import keep_promise
from edgewise.opening.sensitivity import Asked, cached_sensitivity
from edgewise.planning import PLANNERS, PlanResult, Problem
from edgewise.profiling import Grid
from edgewise.quality.calibration import Calibration
from edgewise.quality.promise import Kept
from edgewise.quality.rounding import rounding_for
from edgewise.runtime.coordinator.coordinator import Coordinator
from edgewise.runtime.coordinator.replanning import replanner
from edgewise.runtime.coordinator.workers import Workers
from edgewise.runtime.engine import Request, stream
from edgewise.runtime.local import start_local
from edgewise.schemes import DEFAULT
from edgewise.specs import Workload

REAL, BUILT_IN = "smollm2", "demo"
MAX_TOKENS = 40
REPEATS = 9  # of every timing: half of what a profile takes
QUESTION_SEED = 7


@dataclass(frozen=True, slots=True)
class Scene:
    """What a demo shows: a model, devices, what may be chosen from, and what is asked. `budget` is
    the share of the model's own loss that the plan may add, None: nothing is given up."""

    model: str
    cluster_file: Path
    schemes: tuple[str, ...]
    budget: float | None
    context: str | None
    question: str
    expected: str

    def encode(self, tokenizer: Tokenizer) -> list[int]:
        if self.context is None:
            return tokenizer.encode_chat([{"role": "user", "content": self.question}])
        return tokenizer.encode(prompt(self.context, self.question))


@dataclass(frozen=True, slots=True)
class Result:
    """What the demo found out."""

    scene: Scene
    cluster: Cluster
    outcomes: Outcomes
    chosen: PlanResult
    kept: Kept | None
    answer: Answer


def real_scene() -> Scene:
    """A real language model, in mixed bits within 5 % of its own loss."""
    schemes = ("q3g32ad", "q4g32ad", "q6g16d")
    question, expected = "What is the capital of France?", "The capital of France is Paris."
    return Scene(REAL, REAL_CLUSTER_FILE, schemes, 0.05, None, question, expected)


def built_in_scene(question: int) -> Scene:
    """The model that ships with Edgewise, at full precision."""
    asked = draw_questions(QUESTION_SEED, question + 1)[question]
    return Scene(
        BUILT_IN, CLUSTER_FILE, (DEFAULT,), None, asked.context, asked.question, asked.answer
    )


def chosen_scene(model: str | None, question: int) -> Scene:
    """The real model where its package is installed, else the built-in one, saying so. Raises
    ModelError for another model, or where the real one is asked for and missing."""
    if model not in (None, REAL, BUILT_IN):
        raise ModelError(f"the demo knows the models {REAL} and {BUILT_IN}, not '{model}'")
    if model != BUILT_IN:
        try:
            named_file(REAL)
            return real_scene()
        except ModelError as error:
            if model == REAL:
                raise
            print_notes([f"{error}; until then, the small built-in model answers"])
    return built_in_scene(question)


def run_demo(options: DemoOptions) -> None:
    """Measure, compare, choose, keep the promise, run, and hold the prediction against the
    clock."""
    as_json = options.as_json
    scene, screen = chosen_scene(options.model, options.question), console(as_json)
    cluster = load_cluster(scene.cluster_file)
    screen.print(cluster_table(cluster))
    tokenizer = load_tokenizer(scene.model)
    request = Request(tuple(scene.encode(tokenizer)), MAX_TOKENS, stop_ids=tokenizer.stop_ids)
    rounding = rounding_for(scene.model, scene.schemes, None, bars(as_json))
    spec = open_checkpoint(scene.model).spec
    with start_local(cluster) as workers:
        problem = _problem(scene, workers, Workload(len(request.prompt), MAX_TOKENS), as_json)
        outcomes = compare(problem)
        chosen = best(problem, outcomes)
        screen.print(comparison_table(outcomes, chosen.planner))
        kept = None
        if scene.budget is not None:
            show = bars(as_json)
            planner = PLANNERS[chosen.planner]
            kept = keep_promise(scene.model, problem, chosen, planner, rounding, show, screen.print)
        if kept is not None and kept.result is not chosen:
            chosen = kept.result
            screen.print(plan_table(chosen))
            problem = replace(problem, budget=kept.allowed)
        plan = replace(chosen.plan, rounding=rounding)
        workload = problem.costs.workload
        with progress("loading", spec.num_layers, as_json) as advance:
            replan = replanner(problem)
            engine = Coordinator(
                workers, scene.model, plan, workload, replan=replan, on_layer=advance
            )
        given = _ask(scene, engine, tokenizer, request, screen)
    if given.seconds_per_token is not None and engine.plan is plan:
        screen.print(timing_table(chosen.estimate, given.stage_seconds, given.seconds_per_token))
    screen.print(f"Next: {_program()} serve {scene.model}, and open http://127.0.0.1:8000")
    if as_json:
        print_json(as_document(Result(scene, cluster, outcomes, chosen, kept, given)))


def _program() -> str:
    """As it was started: whoever ran `make demo` has it in a folder of its own."""
    return sys.argv[0] if Path(sys.argv[0]).name == "edgewise" else "edgewise"


def _problem(scene: Scene, workers: Workers, workload: Workload, quiet: bool) -> Problem:
    """What the planners are given, measured now."""
    spec = open_checkpoint(scene.model).spec
    sensitivity = None
    if scene.budget is not None:
        asked = Asked(scene.model, scene.schemes, calibration=Calibration(count=8))
        sensitivity = cached_sensitivity(asked, show=bars(quiet))[0]
    grid = replace(Grid.around(workload), repeats=REPEATS)
    profile = measure_cluster(workers, scene.model, spec, scene.schemes, grid, bars(quiet))
    costs = CostModel(spec, workers.cluster, profile, workload, sensitivity)
    if scene.budget is None or sensitivity is None:
        return Problem(costs, scene.schemes)
    return Problem(costs, scene.schemes, budget=scene.budget * sensitivity.reference)


def _ask(
    scene: Scene, engine: Coordinator, tokenizer: Tokenizer, request: Request, screen: Console
) -> Answer:
    if scene.context is not None:
        screen.print(f"[bold]Context[/]   {escape(scene.context)}")
    screen.print(f"[bold]Question[/]  {escape(scene.question)}")
    screen.print("[bold]Answer[/]    ", end="")
    on_text = (lambda text: None) if screen.quiet else print_text
    given = answer(stream(engine, request), tokenizer, on_text=on_text)
    screen.print(f"\n[bold]Expected[/]  {escape(scene.expected)}\n")
    return given


def as_document(result: Result) -> dict[str, object]:
    """The demo's outcome for programs."""
    return {
        "model": result.scene.model,
        "devices": [finite_values(asdict(device)) for device in result.cluster.devices],
        "plans": comparison_json(result.outcomes),
        "chosen": result.chosen.planner,
        "schemes": result.chosen.plan.schemes,
        "quality_rounds": None if result.kept is None else [asdict(x) for x in result.kept.rounds],
        "predicted_seconds_per_token": result.chosen.estimate.decode_seconds,
        "measured_seconds_per_token": result.answer.seconds_per_token,
        "tokens": result.answer.tokens,
        "context": result.scene.context,
        "question": result.scene.question,
        "answer": result.answer.text.strip(),
        "expected_answer": result.scene.expected,
    }
