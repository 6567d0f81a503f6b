"""Edge-LLM's table of parts made again, by its cost model and by steps on the real model (arXiv
2406.15758). Its cells: published/edge-llm.toml; how to read the page: docs/studies/edge-llm.md.
"""

from edgewise.studies.edge_llm.measured import StepCost, measure_ways
from edgewise.studies.edge_llm.schedules import parts_section, processor_section, schedule_section
from edgewise.studies.page import Comparison, OnStep, Page, Section, Value, comparison_section
from edgewise.studies.published import Table, column_name, load_published

TEXT = (
    "The paper's body could not be read. What its schedule brings is arithmetic by its cost model, "
    "on the device of its figure; steps were timed here on a smaller model, whose figures are not "
    "to be compared with those of LLaMA-7B one by one. What is learned: benchmarks/tuning.py."
)


def edge_llm_page(model: str, on_step: OnStep) -> Page:
    """All sections; `model` is timed, a minute or two."""
    tables, costs = load_published("edge-llm"), measure_ways(model, on_step)
    sections = (
        headline_section(tables["headline"], costs),
        measured_section(model, costs),
        parts_section(),
        schedule_section(),
        processor_section(),
        mmlu_section(tables["mmlu"]),
    )
    return Page("edge-llm", "Edge-LLM (arXiv 2406.15758)", TEXT, sections)


def headline_section(headline: Table, costs: dict[str, StepCost]) -> Section:
    """Windows against LoRA, both in 4 bits."""
    _, lora, *_, windows = costs.values()
    faster, less = headline["faster iterations"], headline["less memory"]
    comparisons = (
        Comparison("faster steps", lora.seconds / windows.seconds, faster["headline"]),
        Comparison(
            "less kept for the backward pass",
            lora.kept_bytes / windows.kept_bytes,
            less["headline"],
        ),
    )
    caption = "Windows beside LoRA through all blocks, both in 4 bits, on the model that was timed."
    return comparison_section("The headline", caption, comparisons)


def measured_section(model: str, costs: dict[str, StepCost]) -> Section:
    """Which part brings what, timed."""
    first = next(iter(costs.values()))
    rows = tuple(
        (name, x.seconds, first.seconds / x.seconds, x.kept_bytes / 1e6)
        for name, x in costs.items()
    )
    columns = ("way to train", "seconds a step", "times as quick", "MB kept")
    caption = f"Steps of 8 questions on {model}, by turns; the mean over windows, by lot of five."
    return Section("Which part brings what, measured", caption, columns, rows)


def mmlu_section(mmlu: Table) -> Section:
    """Their table of accuracy: nothing of ours stands beside it."""
    columns = (
        "method, average bits, pruned",
        column_name("memory", (row["memory"] for row in mmlu.values())),
        column_name("MMLU", (row["accuracy"] for row in mmlu.values())),
    )
    rows: tuple[tuple[Value, ...], ...] = tuple(
        (name, float(row["memory"].value), float(row["accuracy"].value))
        for name, row in mmlu.items()
    )
    caption = "Of LLaMA-7B, which was not run here: shown for their order alone."
    return Section("Table 1", caption, columns, rows)
