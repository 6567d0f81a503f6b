"""Claim: whoever gets SmolLM2's states behind the embedding, or D x of the first block's private
adapters, reads every token of a prompt by the nearest entry of a table; behind four blocks a reader
that learned from other text still reads four in five tokens from states, and two in five from 24
numbers; and M is known to a millionth from D x and M D x of 2 r tokens.

Three readers. "nearest": the vocabulary's token that, alone in a prompt, gives the nearest numbers.
"linear": least squares from what is seen to the row of the model's own table (of length 1), and the
nearest row. "mlp": that and a network of 1,024 beside it, 200 steps of cross entropy among the
tokens of a batch and 2,048 others of the text. Both choose among all 49,152 tokens, also those that
they never saw. They learned from 59,904 tokens of Debian's fortunes, and read 1,024 of other
fortunes and 1,024 of the Debian handbook (packages fortunes and debian-handbook). Layers are in
float32, M is drawn. `python benchmarks/leakage.py [--cuts 0 1]`: behind so many blocks; a minute
or two for each.
"""

import argparse
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from claims import finish
from torch import Tensor, nn

from edgewise.adapters import AdapterConfig, Kind, LowRank
from edgewise.adapters.matrices import columns_of, parts_of
from edgewise.cli.devices import describe_machine
from edgewise.models.config import DecoderConfig
from edgewise.models.decoder import DecoderBlock, Embedding, causal_attention
from edgewise.models.rotary import inverse_frequencies, rotation
from edgewise.models.shard import load_shard
from edgewise.models.tokenizer import load_tokenizer

MODEL, CUTS, RANKS = "smollm2", (0, 1, 2, 4), (8, 16)
FORTUNES = Path("/usr/share/games/fortunes")
HANDBOOK = Path("/usr/share/doc/debian-handbook/html/en-US")
OTHERS = ("science", "literature", "law", "wisdom")  # fortunes that nothing is learned from
LEARNED, JUDGED, LENGTH = 60_000, 1024, 128  # tokens; of each sequence
WIDTH, BATCH, STEPS, CANDIDATES, RATE = 1024, 512, 200, 2048, 1e-3
AT_ONCE = 512  # rows beside the whole vocabulary
PARTS = ("q", "k", "v")
STATES_READ, RESIDUALS_READ, M_ERROR = 0.8, 0.4, 1e-6


@dataclass(frozen=True)
class Seen:
    """What somebody sees of tokens at a cut, [tokens, numbers], and which tokens they were."""

    numbers: Tensor
    tokens: Tensor


def fortunes(names: Sequence[str]) -> str:
    return "\n".join((FORTUNES / name).read_text("utf-8", "replace") for name in names)


def handbook() -> str:
    """Its pages' paragraphs, without markup."""
    pages = (path.read_text("utf-8") for path in sorted(HANDBOOK.glob("*.html")))
    found = (part for page in pages for part in re.findall(r"<p[ >].*?</p>", page, re.DOTALL))
    plain = (unescape(re.sub(r"<[^>]+>", "", part)) for part in found)
    return "\n\n".join(" ".join(part.split()) for part in plain)


def sequences(text: str, most: int, seed: int) -> Tensor:
    """int64 [sequences, LENGTH], pieces of a text drawn by lot."""
    ids = torch.tensor(load_tokenizer(MODEL).encode(text))
    whole = ids[: len(ids) // LENGTH * LENGTH].view(-1, LENGTH)
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed))
    return whole[order[: most // LENGTH]]


class Depths:
    """The model's first blocks, in float32, and where they are cut."""

    def __init__(self, cuts: Sequence[int]) -> None:
        shard = load_shard(MODEL, 0, max(cuts) + 2, "fp32", slots=1, context=LENGTH)
        self.cuts = cuts
        self.config: DecoderConfig = shard.config
        self.embedding, *self.blocks = shard.layers
        assert self.config.rope is not None
        self._frequency = inverse_frequencies(self.config.rope, self.config.head_dim)

    @torch.inference_mode()
    def states(self, tokens: Tensor) -> dict[int, Tensor]:
        """tokens [B, T] -> by cut, what comes out of so many blocks, [B T, H]."""
        parts: dict[int, list[Tensor]] = {cut: [] for cut in self.cuts}
        for some in tokens.split(max(4096 // tokens.shape[1], 1)):
            positions = torch.arange(some.shape[1]).expand(some.shape)
            turn = rotation(self._frequency, positions[:1])
            states = self.embedding(some, positions)
            for number, block in enumerate(self.blocks):
                if number in parts:
                    parts[number].append(states)
                if number < max(self.cuts):
                    states = block(states, turn, causal_attention(None))
        return {cut: torch.cat(each).flatten(0, 1) for cut, each in parts.items()}

    @torch.inference_mode()
    def shown(self, states: dict[int, Tensor], cut: int, rank: int | None) -> Tensor:
        """Hidden states at a cut; with a rank what the next block sends where it has private
        adapters: D x of q, k and v, [tokens, 3 r]."""
        if rank is None:
            return states[cut]
        block, adapter = self.blocks[cut], AdapterConfig(Kind.PRIVATE, rank, matrices=PARTS)
        assert isinstance(block, DecoderBlock)
        columns = columns_of(self.config, "qkv")
        downs = [
            LowRank(adapter, f"{cut}.{name}", rows, columns).down.detach()
            for name, _, rows in parts_of(self.config)["qkv"]
        ]
        return F.linear(block.attention_norm(states[cut]), torch.cat(downs))


def nearest(seen: Tensor, references: Tensor) -> Tensor:
    """The reference that each row is nearest to."""
    square = (references**2).sum(-1)
    return torch.cat(
        [(square - 2 * part @ references.T).argmin(-1) for part in seen.split(AT_ONCE)]
    )


def share(read: Tensor, tokens: Tensor) -> float:
    return (read == tokens).float().mean().item()


class Inverter(nn.Module):
    """What is seen -> what the model's own table is multiplied with: its scores say which token it
    was. W s + MLP(s), over rows of the table of length 1: no matrix as large as the vocabulary is
    learned."""

    def __init__(self, learned: Seen, table: Tensor) -> None:
        super().__init__()
        self.mean, self.spread = learned.numbers.mean(0), learned.numbers.std(0) + 1e-6
        self.table = F.normalize(table)
        size, hidden = learned.numbers.shape[1], table.shape[1]
        self.line = nn.Linear(size, hidden)
        self.deep = nn.Sequential(nn.Linear(size, WIDTH), nn.GELU(), nn.Linear(WIDTH, hidden))
        self.scale = nn.Parameter(torch.tensor(20.0))
        self._fit_line(learned)

    @torch.no_grad()
    def _fit_line(self, learned: Seen) -> None:
        """By least squares, to the rows of the tokens; the rest begins at zero."""
        ones = torch.ones(len(learned.numbers), 1)
        inputs = torch.cat((self.standard(learned.numbers), ones), -1).double()
        square = inputs.T @ inputs + 1e-3 * len(inputs) * torch.eye(inputs.shape[1]).double()
        solved = torch.linalg.solve(square, inputs.T @ self.table[learned.tokens].double())
        self.line.weight.copy_(solved[:-1].T)
        self.line.bias.copy_(solved[-1])
        for parameter in self.deep[-1].parameters():
            parameter.zero_()

    def standard(self, numbers: Tensor) -> Tensor:
        return (numbers - self.mean) / self.spread

    def forward(self, numbers: Tensor) -> Tensor:
        """[rows, numbers] -> [rows, H]."""
        inputs = self.standard(numbers)
        return self.line(inputs) + self.deep(inputs)

    def learn(self, learned: Seen, seed: int = 0) -> None:
        """Cross entropy among the batch's tokens and others that occur in the text, by lot."""
        generator, known = torch.Generator().manual_seed(seed), learned.tokens.unique()
        optimizer = torch.optim.AdamW(self.parameters(), RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        for _ in range(STEPS):
            rows = torch.randint(len(learned.tokens), (BATCH,), generator=generator)
            drawn = known[torch.randint(len(known), (CANDIDATES,), generator=generator)]
            among, targets = torch.cat((learned.tokens[rows], drawn)).unique(return_inverse=True)
            scores = self.scale * F.linear(self(learned.numbers[rows]), self.table[among])
            F.cross_entropy(scores, targets[:BATCH]).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()

    @torch.no_grad()
    def read(self, numbers: Tensor) -> Tensor:
        """The token of each row, of the whole vocabulary."""
        parts = (F.linear(self(part), self.table).argmax(-1) for part in numbers.split(AT_ONCE))
        return torch.cat(list(parts))


def recovered(seen: Tensor, rank: int, tokens: int) -> float:
    """M by whoever sees D x and M D x of so many tokens: the largest error of an entry, as a share
    of the largest entry."""
    middle = torch.randn(rank, rank, generator=torch.Generator().manual_seed(1)) / rank
    sent = seen[:tokens, :rank]
    solved = torch.linalg.lstsq(sent.double(), F.linear(sent, middle).double()).solution.T
    return ((solved - middle).abs().max() / middle.abs().max()).item()


def attacks(
    learned: Seen, judged: dict[str, Seen], alone: Tensor, table: Tensor
) -> Iterator[tuple[str, dict[str, float]]]:
    """By attack and text, the share of tokens that it reads."""
    yield "nearest", {k: share(nearest(x.numbers, alone), x.tokens) for k, x in judged.items()}
    inverter = Inverter(learned, table)
    yield "linear", {k: share(inverter.read(x.numbers), x.tokens) for k, x in judged.items()}
    inverter.learn(learned)
    yield "mlp", {k: share(inverter.read(x.numbers), x.tokens) for k, x in judged.items()}


def failures(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Where fewer tokens are read than claimed, by whoever reads best."""
    best: dict[tuple[int, int | None], float] = {}
    for row in rows:
        key = row["cut"], row["rank"]
        best[key] = max(best.get(key, 0.0), min(row["fortunes"], row["handbook"]))
    failed = []
    for (cut, rank), read in best.items():
        least = 1.0 if cut == 0 else STATES_READ if rank is None else RESIDUALS_READ
        if read < least:
            failed.append(f"behind {cut} blocks, rank {rank}: {read:.1%} are read")
    return failed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cuts", type=int, nargs="*", default=list(CUTS), choices=CUTS)
    cuts = parser.parse_args().cuts
    if not FORTUNES.is_dir() or not HANDBOOK.is_dir():
        sys.exit("install the packages fortunes and debian-handbook")
    depths = Depths(cuts)
    names = sorted(x.stem for x in FORTUNES.glob("*.dat"))
    learned = sequences(fortunes([x for x in names if x not in OTHERS]), LEARNED, 0)
    judged = {
        "fortunes": sequences(fortunes(OTHERS), JUDGED, 1),
        "handbook": sequences(handbook(), JUDGED, 2),
    }
    assert isinstance(depths.embedding, Embedding)
    table = depths.embedding.tokens.weight.detach()
    words = torch.arange(len(table))[:, None]
    states = depths.states(learned)
    states_of = {name: depths.states(tokens) for name, tokens in judged.items()}
    alone = depths.states(words)
    rows, middles = list[dict[str, Any]](), dict[str, float]()
    for cut in cuts:
        for rank in (None, *RANKS):
            seen = Seen(depths.shown(states, cut, rank), learned.flatten())
            tests = {
                name: Seen(depths.shown(states_of[name], cut, rank), tokens.flatten())
                for name, tokens in judged.items()
            }
            for attack, read in attacks(seen, tests, depths.shown(alone, cut, rank), table):
                rows.append({"cut": cut, "rank": rank, "attack": attack, **read})
                print(time.strftime("%X"), rows[-1], flush=True)
            if rank is not None:
                middles[f"cut {cut}, rank {rank}"] = recovered(seen.numbers, rank, 2 * rank)
    print(middles)
    failed = [f"M is off by {error:.1e} at {name}" for name, error in middles.items()
              if error > M_ERROR]  # fmt: skip
    failed += failures(rows)
    known = learned.unique()
    finish("leakage", {
        "machine": describe_machine()["processor"], "torch": torch.__version__,
        "learned_tokens": learned.numel(), "different": len(known),
        "judged_tokens": {k: v.numel() for k, v in judged.items()},
        "in_learned": {k: torch.isin(v, known).float().mean().item() for k, v in judged.items()},
        "rows": rows, "middles": middles, "load": os.getloadavg()[0],
    }, failed)  # fmt: skip


if __name__ == "__main__":
    main()
