"""`edgewise demo`: the whole product in one command, on three emulated devices."""

from dataclasses import asdict, dataclass

from edgewise.cli.answer import Answer, answer
from edgewise.cli.prepare import Outcomes, best, compare, comparison_json, measure_cluster
from edgewise.cli.terminal import (
    cluster_table,
    comparison_table,
    console,
    print_json,
    print_text,
    progress,
    timing_table,
)
from edgewise.cluster_files import load_cluster
from edgewise.clusters import Cluster
from edgewise.costs import CostModel
from edgewise.demo import CLUSTER_FILE
from edgewise.demo.questions import Question, draw_questions, prompt
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.tokenizer import load_tokenizer
from edgewise.planning import PlanResult, Problem
from edgewise.profiling import Grid
from edgewise.runtime.coordinator import Coordinator
from edgewise.runtime.engine import Request
from edgewise.runtime.local import LocalDevices
from edgewise.schemes import DEFAULT
from edgewise.specs import Workload

MODEL = "demo"
MAX_TOKENS = 40
QUESTION_SEED = 7


@dataclass(frozen=True, slots=True)
class Result:
    """What the demo found out."""

    cluster: Cluster
    outcomes: Outcomes
    chosen: PlanResult
    question: Question
    answer: Answer


def run_demo(*, question: int, as_json: bool) -> None:
    """Measure, compare, choose, run, and hold the prediction against the clock."""
    screen = console(as_json)
    cluster = load_cluster(CLUSTER_FILE)
    screen.print(cluster_table(cluster))
    asked = draw_questions(QUESTION_SEED, question + 1)[question]
    tokenizer = load_tokenizer(MODEL)
    ids = tokenizer.encode(prompt(asked.context, asked.question))
    request = Request(tuple(ids), MAX_TOKENS, stop_ids=tokenizer.stop_ids)
    spec = open_checkpoint(MODEL).spec
    workload = Workload(len(ids), MAX_TOKENS)
    with LocalDevices(cluster) as devices:
        grid = Grid.around(workload)
        profile = measure_cluster(devices, MODEL, spec, [DEFAULT], grid, as_json)
        problem = Problem(CostModel(spec, cluster, profile, workload))
        outcomes = compare(problem)
        chosen = best(problem, outcomes)
        screen.print(comparison_table(outcomes, chosen.planner))
        with progress("loading", spec.num_layers, as_json) as advance:
            engine = Coordinator(devices, MODEL, chosen.plan, workload, on_layer=advance)
        screen.print(f"[bold]Context[/]   {asked.context}\n[bold]Question[/]  {asked.question}")
        screen.print("[bold]Answer[/]    ", end="")
        found = answer(
            engine, tokenizer, request, on_text=(lambda _: None) if as_json else print_text
        )
    screen.print(f"\n[bold]Expected[/]  {asked.answer}\n")
    result = Result(cluster, outcomes, chosen, asked, found)
    if found.seconds_per_token is not None:
        screen.print(timing_table(chosen.estimate, found.stage_seconds, found.seconds_per_token))
    if as_json:
        print_json(as_document(result))


def as_document(result: Result) -> dict[str, object]:
    """The demo's outcome for programs."""
    return {
        "model": MODEL,
        "devices": [asdict(device) for device in result.cluster.devices],
        "plans": comparison_json(result.outcomes),
        "chosen": result.chosen.planner,
        "predicted_seconds_per_token": result.chosen.estimate.decode_seconds,
        "measured_seconds_per_token": result.answer.seconds_per_token,
        "tokens": result.answer.tokens,
        "context": result.question.context,
        "question": result.question.question,
        "answer": result.answer.text.strip(),
        "expected_answer": result.question.answer,
    }
