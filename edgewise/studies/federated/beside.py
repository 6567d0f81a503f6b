"""What was published of federated learning and swarms, and what can be set beside it."""

from edgewise.federating.fed_pso import FedPso
from edgewise.federating.model_swarms import ModelSwarms
from edgewise.federating.traffic import averaging_traffic, fed_pso_traffic, lora_numbers
from edgewise.studies.page import Comparison, Section, comparison_section
from edgewise.studies.published import Table

BLOCKS, HIDDEN, KEYS = 24, 896, 128  # Qwen2.5-0.5B: blocks, width, width of keys and values


def published_section(tables: dict[str, Table]) -> Section:
    """Coefficients are the published codes'; gains were measured on other data and models, so ours
    are not beside them."""
    pso, swarms = FedPso(), ModelSwarms()
    theirs = tables["fed_pso"]["FedPSO"]
    other = "other data and models: nothing of ours is comparable"
    comparisons = [
        Comparison("FedPSO: inertia", pso.inertia, theirs["inertia"]),
        Comparison("FedPSO: to its own best", pso.to_own, theirs["to its own best"]),
        Comparison("FedPSO: to the common best", pso.to_common, theirs["to the common best"]),
        *(
            Comparison(f"FedPSO: {name}", None, theirs[name], other)
            for name in theirs
            if name.startswith("accuracy")
        ),
    ]
    theirs = tables["model_swarms"]["Model Swarms"]
    ours = {
        "inertia": swarms.inertia,
        "to its own best": swarms.to_own,
        "to the best of all": swarms.to_best,
        "from the worst of all": swarms.from_worst,
    }
    comparisons += [
        Comparison(f"Model Swarms: {name}", ours.get(name), cell, "" if name in ours else other)
        for name, cell in theirs.items()
    ]
    (row,) = tables["traffic"].values()
    shapes = [(HIDDEN, HIDDEN), (KEYS, HIDDEN)] * BLOCKS
    numbers = lora_numbers(shapes, 8)
    comparisons.append(
        Comparison("LoRA of rank 8, q and v: megabytes", numbers * 4 / 1e6, row["megabytes"],
                   "by its formula, float32")
    )  # fmt: skip
    up = fed_pso_traffic(numbers, 10).up_bytes / averaging_traffic(numbers, 10).up_bytes
    caption = (
        f"FedPSO sends up one client's numbers instead of all: of 10 clients {up:.0%} of what "
        "FedAvg does, by formula."
    )
    return comparison_section("Beside what was published", caption, comparisons)
