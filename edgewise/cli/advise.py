"""`edgewise advise`: what the rules say of models on devices, and why."""

import shlex
from dataclasses import asdict

from rich.markup import escape
from rich.table import Table

from edgewise.advice.facts import Facts, Variant
from edgewise.advice.gather import gather
from edgewise.advice.learning import learning_seconds
from edgewise.advice.outcome import Advice, Way
from edgewise.advice.rules import advise
from edgewise.cli.adapting import AdviseOptions
from edgewise.cli.terminal import console, print_json
from edgewise.cluster_files import load_cluster
from edgewise.models.checkpoint import open_checkpoint
from edgewise.opening.engine import this_machine
from edgewise.opening.profile import check_reachable
from edgewise.schemes import STORED
from edgewise.units import format_bytes, format_seconds

MODELS = ("smollm2",)


def run_advise(options: AdviseOptions) -> None:
    """Print the advice, what it rests on, and the rules that spoke."""
    facts = _facts(options)
    advice = advise(facts)
    if options.as_json:
        print_json(_document(facts, advice, options))
        return
    screen = console(False)
    for line in lines_of(facts, advice, options):
        screen.print(line, markup=False, soft_wrap=True)
    screen.print(_table(advice))


def _facts(options: AdviseOptions) -> Facts:
    cluster = load_cluster(options.cluster) if options.cluster else this_machine()
    check_reachable(cluster)
    models = {name: open_checkpoint(name).spec for name in options.models or MODELS}
    return Facts(
        gather(models, cluster),
        room_bytes=sum(device.memory_bytes for device in cluster.devices),
        source_bytes=cluster.device(cluster.source).memory_bytes,
        task=options.task,
        samples=options.samples,
        hours=options.hours,
    )


def lines_of(facts: Facts, advice: Advice, options: AdviseOptions) -> list[str]:
    """The advice in words: nothing that was not measured is said as if it had been."""
    variant = advice.variant
    needed = f"{format_bytes(variant.needed_bytes)} of {format_bytes(facts.room_bytes)}"
    lines = [f"{variant}; {_way(advice)}"]
    if not variant.measured:
        command = to_measure(variant, options)
        lines += [
            f"fits: not measured; by the model's shape {needed}",
            f"how long: not measured: run `{command}`",
        ]
        return lines + _next(advice)
    lines += [
        f"fits: by a plan on what was measured, {needed}",
        f"a token: {_seconds(variant.decode_seconds)}, predicted by that plan",
    ]
    learning = learning_seconds(facts, variant)
    if advice.way is Way.ADAPTER and learning is not None:
        lines.append(f"learning from every record once: about {_seconds(learning)} (an estimate "
                     "from measured reading; how much more learning takes is ours)")  # fmt: skip
    return lines + _next(advice)


def _way(advice: Advice) -> str:
    match advice.way:
        case Way.ADAPTER:
            return f"an adapter: {advice.kind}, rank {advice.rank}, at most {advice.hours:g} h"
        case Way.RETRIEVAL:
            part = "" if advice.records is None else f" in {advice.records} records at most"
            return f"look things up{part} (your program's to do), and adapt nothing"
        case Way.NEITHER:
            return "neither adapter nor retrieval"
    return "adapter or retrieval: not decided, say --task"


def to_measure(variant: Variant, options: AdviseOptions) -> str:
    """The command that measures it."""
    words = ["edgewise", "profile", variant.model]
    if options.cluster is not None:
        words += ["--cluster", str(options.cluster)]
    if variant.scheme != STORED:
        words += ["--schemes", variant.scheme]
    return shlex.join(words)


def _next(advice: Advice) -> list[str]:
    if advice.way is not Way.ADAPTER:
        return []
    model, scheme = advice.variant.model, advice.variant.scheme
    options = f"--scheme {scheme} --rank {advice.rank} --data FILE --out FOLDER"
    return [f"next: edgewise tune {model} {options}"]


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else format_seconds(seconds)


def _table(advice: Advice) -> Table:
    table = Table("rule", "here", "source", "tag", "ours", title="Rules that spoke", caption=TAGGED)
    for spoken in advice.spoken:
        rule = spoken.rule
        texts = (rule.says, spoken.reason, rule.source, f"[{rule.tag}]", rule.ours or "-")
        table.add_row(*map(escape, texts))
    return table


TAGGED = (
    "[V] read in the source; [V2] read in a secondary source only; [I] inferred; [ours] this "
    "project's. All thresholds are ours."
).replace("[", "\\[")


def _document(facts: Facts, advice: Advice, options: AdviseOptions) -> dict[str, object]:
    variant = advice.variant
    return {
        "model": variant.model,
        "scheme": variant.scheme,
        "way": advice.way,
        "kind": advice.kind,
        "rank": advice.rank,
        "hours": advice.hours,
        "records": advice.records,
        "measured": variant.measured,
        "to_measure": None if variant.measured else to_measure(variant, options),
        "learning_seconds": learning_seconds(facts, variant),
        "rules": [
            {
                "name": spoken.rule.name,
                "says": spoken.rule.says,
                "reason": spoken.reason,
                "source": spoken.rule.source,
                "tag": spoken.rule.tag,
                "ours": spoken.rule.ours,
            }
            for spoken in advice.spoken
        ],
        "variants": [{**asdict(x), "measured": x.measured} for x in facts.variants],
    }
