"""Adapters of windows that change answers, and what tuning's own forward pass says with them."""

import torch

from edgewise.adapters import AdapterConfig
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.votes import VOTES
from edgewise.tuning.judging import exit_logits
from edgewise.tuning.lessons import Lesson, batch_of
from edgewise.tuning.loading import load_tunable, save_tuned
from edgewise.tuning.recipe import Recipe
from edgewise.tuning.training import Learning


@torch.no_grad()
def write_windows(folder, model, *, window=2, rank=4, seed=1, size=0.3, scheme="fp32"):
    """Random ones of a model, as `edgewise tune` writes them; the model that they were made of."""
    opened = open_checkpoint(str(model))
    recipe = Recipe(window=window, adapter=AdapterConfig(rank=rank, seed=seed))
    windows = recipe.windows(opened.config.num_blocks)
    tunable = load_tunable(opened, scheme, recipe.adapter, windows)
    generator = torch.Generator().manual_seed(seed)
    for each in windows:
        for name, parameter in tunable.trained(each).items():
            if not name.endswith("down"):
                parameter += torch.randn(parameter.shape, generator=generator) * size
    save_tuned(Learning(tunable, recipe, windows).tensors(), folder, opened, recipe)
    return tunable


def judged(tunable, tokens, vote):
    """Log-probabilities of what follows the tokens, computed without a cache."""
    batch = batch_of([Lesson((*tokens, 0), len(tokens))])
    return VOTES[vote](exit_logits(tunable, batch))[0]


def judged_answer(tunable, prompt, count, vote):
    """The likeliest token each time."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(judged(tunable, tokens, vote).argmax()))
    return tokens[len(prompt) :]
