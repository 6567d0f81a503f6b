"""Where PrivateLoRA's text, table and figures contradict each other, and its own measure."""

from collections.abc import Mapping

from edgewise.studies.page import Section, Value
from edgewise.studies.private_lora.formula import Llama, decode_rate, prefill_rate, rank_of
from edgewise.studies.published import Cell, Table, column_name


def claims_section(
    claims: Table, shape: Llama, rank: int, decode: float, prefill: float
) -> Section:
    """One value beside another of the same thing, and ours; `decode` and `prefill` are the seconds
    of a token besides communication and, decoding, the head."""
    headline, alone = claims[f"7B, rank {rank}"], claims["device alone"]
    needed = rank_of(float(headline["prefill"].value), shape, prefill)
    full = shape.width  # an ordinary adapter's answers are as wide as a hidden state
    whole, demo = claims["LoRA of all layers, 7B"]["decode"].value, claims["their demo"]
    said, curve = headline["prefill"], headline["prefill on the curve"]
    rows: tuple[tuple[Value, ...], ...] = (
        ("7B, decoding", headline["decode"].value, headline["decode in the table"].value,
         decode_rate(shape, rank, 1.0, decode), "the text's is the curve's point, batch of 1"),
        ("7B, prompts", said.value, curve.value, prefill_rate(shape, rank, prefill),
         f"the text's would be rank {needed:.0f} on the curve"),
        ("device alone, decoding", alone["decode"].value, alone["decode in the table"].value, None,
         f"PrivateLoRA's {headline['decode'].value} is {_share(headline, alone, 'decode')} of the "
         f"one, {_share(headline, alone, 'decode', 'decode in the table')} of the other"),
        ("device alone, prompts", alone["prefill"].value, alone["prefill on the curve"].value, None,
         f"{said.value} is {_share(headline, alone, 'prefill')} of the one; the curve's "
         f"{curve.value} {_share(headline, alone, 'prefill on the curve', 'prefill')}, "
         "not the 300 % claimed"),
        ("LoRA of all layers, decoding", whole, None, decode_rate(shape, full, 1.0, decode),
         "cannot be matched: the same formula, with whole states, gives more"),
        ("their demo, decoding", demo["measured"].value, demo["estimated"].value, None,
         "measured, and estimated by the formula"),
    )  # fmt: skip
    cells = [cell for row in claims.values() for cell in row.values()]
    columns = ("what, tokens per second", column_name("value", cells),
               "believed, elsewhere", "ours", "remark")  # fmt: skip
    caption = "The same thing, said twice. Ours is the formula's, with no latency."
    return Section("Where the text contradicts itself", caption, columns, rows)


def _share(
    ours: Mapping[str, Cell], alone: Mapping[str, Cell], what: str, other: str | None = None
) -> str:
    """Of PrivateLoRA's rate, in percent of the device's alone."""
    return f"{float(ours[what].value) / float(alone[other or what].value):.0%}"


def worth_section(quality: Table) -> Section:
    """Their measure of what an adapter is worth, made again from their own rates and scores."""
    rows: list[tuple[Value, ...]] = []
    cloud = quality["7B, cloud"]
    for name, row in quality.items():
        if name.endswith(", cloud"):
            cloud = row
            continue
        rate, score = float(row["rate"].value), float(row["score"].value)
        gained = score - float(cloud["score"].value)
        worth = rate / float(cloud["rate"].value) * gained
        rows.append((name, rate, score, worth, row["M_S"].value))
    cells = [cell for row in quality.values() for cell in row.values()]
    rates, scores, theirs = (column_name(x, cells) for x in ("tokens/s", "mean score", "M_S"))
    caption = (
        "M_S = tokens/s over the cloud's x what the score gains over no tuning: arithmetic on "
        "their own table. The scores are of Llama-2 (7B, 13B) and LLaMA (33B), tuned for each "
        "benchmark; nothing here was trained."
    )
    columns = ("what", rates, scores, "M_S, arithmetic", theirs)
    return Section("What it is worth", caption, columns, tuple(rows))
