"""The rules of `edgewise advise`, and what they come to (Empirical Guidelines, arXiv 2406.03777).

How to read the page: docs/studies/guidelines.md.
"""

from edgewise.advice.facts import Facts, Task
from edgewise.advice.gather import schemes_of, variant_of
from edgewise.advice.rules import RULES, advise
from edgewise.clusters import Cluster
from edgewise.errors import Infeasible
from edgewise.simulation import SHAPES
from edgewise.studies.page import Page, Section, Value

GIGABYTES = (4, 8, 16)  # the paper's devices, as a review has them [V2]
SAMPLES = (0, 20, 100, 1000)
TEXT = (
    "Of the paper the abstract was read, and what reviews quote; its figures were not. So there is "
    "no value to compare with: the rules are shown with where each stands, and **every threshold "
    "is ours**. Nothing was measured: what fits is arithmetic on the models' shapes."
)


def guidelines_page() -> Page:
    """The rules, and advice for the published shapes on small devices."""
    sections = rules_section(), advice_section()
    return Page("guidelines", "Empirical Guidelines (arXiv 2406.03777)", TEXT, sections)


def rules_section() -> Section:
    """The rules in the order in which they speak."""
    rows = tuple(
        (rule.name, rule.says, rule.source, f"[{rule.tag}]", rule.ours or "-") for rule in RULES
    )
    columns = ("rule", "says", "source", "tag", "our threshold")
    caption = "In the order in which they speak. [ours]: this project's, after no paper."
    return Section("The rules", caption, columns, rows)


def advice_section() -> Section:
    """Of one device: what it is advised for each kind of task and amount of data."""
    rows = [
        row(gigabytes, task, samples)
        for gigabytes in GIGABYTES
        for task in Task
        for samples in SAMPLES
    ]
    columns = ("GB", "task", "records", "model", "scheme", "way", "rules that spoke")
    names = ", ".join(shape.name for shape in SHAPES)
    caption = f"What is advised where {names} are to choose from, on one device."
    return Section("What they come to", caption, columns, tuple(rows))


def row(gigabytes: int, task: Task, samples: int) -> tuple[Value, ...]:
    """One case."""
    room = gigabytes * 10**9
    cluster = Cluster.of_this_machine(room, 1)
    variants = tuple(
        variant_of(shape.name, shape, scheme, cluster)
        for shape in SHAPES
        for scheme in schemes_of(shape)
    )
    case = str(gigabytes), task.value, str(samples)
    try:
        advice = advise(Facts(variants, room, room, task, samples))
    except Infeasible as error:
        return (*case, "none fits", "-", "-", str(error))
    names = ", ".join(spoken.rule.name for spoken in advice.spoken)
    way = advice.way.value if advice.way else "-"
    return (*case, advice.variant.model, advice.variant.scheme, way, names)
