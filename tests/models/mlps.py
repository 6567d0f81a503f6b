"""Models one block of which is an MLP: as folders, and as transformers' models changed by hand."""

from pathlib import Path

import torch
import transformers

from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.decoder import MlpBlock
from edgewise.models.rewriting import write_checkpoint
from tests.conftest import random_model

KEPT, PLACE = [0, 1, 3], 1  # of four blocks, and the one of these that becomes an MLP


def random_mlp(hidden: int = 32) -> torch.nn.Sequential:
    """With torch's own modules, its initialisation and biases."""
    torch.manual_seed(7)
    matrices = torch.nn.Linear(hidden, 4 * hidden), torch.nn.Linear(4 * hidden, hidden)
    return torch.nn.Sequential(matrices[0], torch.nn.ReLU(), matrices[1]).requires_grad_(False)


def write_with_mlp(folder: Path, source: str | Path) -> Path:
    """A model's blocks KEPT, the one at PLACE an MLP."""
    opened = open_checkpoint(source)
    theirs = random_mlp(opened.config.hidden_size)
    mlp = MlpBlock(opened.config).requires_grad_(False)
    for ours, given in ((mlp.fc1, theirs[0]), (mlp.fc2, theirs[2])):
        ours.load_state_dict(given.state_dict())
    write_checkpoint(opened, KEPT, {KEPT[PLACE]: mlp}, folder)
    return folder


class _Instead(torch.nn.Module):
    """Takes what transformers hands to its blocks."""

    def __init__(self, mlp: torch.nn.Module, like: torch.nn.Module) -> None:
        super().__init__()
        self.mlp, self.attention_type = mlp, getattr(like, "attention_type", "full_attention")

    def forward(self, hidden_states: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        states: torch.Tensor = self.mlp(hidden_states)
        return states


def model_with_mlp(family: str) -> transformers.PreTrainedModel:
    """The same, of transformers."""
    model = random_model(family)
    decoder = getattr(model.model, "decoder", model.model)
    decoder.layers = torch.nn.ModuleList(decoder.layers[number] for number in KEPT)
    decoder.layers[PLACE] = _Instead(random_mlp(), decoder.layers[PLACE])
    return model
