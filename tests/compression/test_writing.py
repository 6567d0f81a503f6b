"""Compressed checkpoints: the codes in them against transformers, and damage to them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from edgewise.compression.errors import measure_block_errors
from edgewise.compression.policies import Compression, uniform_compression
from edgewise.compression.writing import write_compressed
from edgewise.errors import DiskError, InputError, ModelError
from edgewise.models.cache import Segment
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.layer_files import load_layer, save_layer
from edgewise.models.loading import Loader
from edgewise.models.shape import ModelShape
from edgewise.models.shard import load_shard
from edgewise.models.tokenizer import load_tokenizer
from edgewise.quality.streaming import divergence, run_observed
from edgewise.quantization.stacked import numbers_of
from edgewise.schemes import get_scheme
from tests.conftest import VOCABULARY, random_model

MIXED = Compression((4, 5, 3, 8), (0.5, 0.25, 0.75, 0.0))
FAMILIES = ("llama", "llama-tied", "llama-biases", "qwen2-window", "qwen3", "opt")
IDS = torch.randint(VOCABULARY, (4, 16), generator=torch.Generator().manual_seed(1))

Written = Callable[[str], Path]


@pytest.fixture(scope="module")
def written(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The folder of a family's random checkpoint, compressed."""
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family) / "smaller"
            write_compressed(str(checkpoint(family)), MIXED, IDS, made[family])
        return made[family]

    return get


def logits(folder: Path, scheme: str) -> torch.Tensor:
    shard = load_shard(folder, schemes=scheme, slots=1, context=IDS.shape[1])
    rows = []
    for row in IDS:
        rows.append(shard.forward(row, [Segment(0, 0, len(row))]))
        shard.drop(0)
    return torch.stack(rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_model_with_these_weights(family: str, written: Written) -> None:
    """transformers' model with the decoded matrices in place of its own."""
    smaller, model = open_checkpoint(written(family)), random_model(family)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(smaller.read(name))
        expected = model(IDS).logits
    torch.testing.assert_close(logits(written(family), "fp32"), expected, rtol=1e-3, atol=1e-3)
    lost = divergence(expected, logits(written(family), "stored")).mean()
    assert float(lost) < 0.02  # bf16, and activations in 8 bits


@pytest.mark.parametrize("family", FAMILIES)
def test_as_many_weights_are_zero_as_were_asked_for(family: str, written: Written) -> None:
    smaller = open_checkpoint(written(family))
    for number, (bits, share) in enumerate(zip(MIXED.bits, MIXED.sparsities, strict=True)):
        place = f"layers.{number}."
        names = [x for x in smaller.matrices if place in x]
        assert len(names) >= 6
        assert {smaller.matrices[name].scheme for name in names} == {f"q{bits}g32d"}
        for name in names:
            zeros = smaller.read(name) == 0
            assert float(zeros.float().mean()) >= round(share * zeros.numel()) / zeros.numel()
            assert share == 0 or float(zeros.float().mean()) <= share + 0.35


@pytest.mark.parametrize("family", ["llama", "llama-tied", "opt"])
def test_bytes_are_what_the_specification_says(family: str, written: Written) -> None:
    folder = written(family)
    spec = open_checkpoint(folder).spec
    shard = load_shard(folder, schemes="stored")
    assert shard.weight_bytes == spec.weight_bytes(["stored"] * spec.num_layers)
    assert spec.layers[1].stored[1] == ((32, "q4g32d"),)


def test_nothing_pruned_is_what_gptq_makes(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """The first block, whose inputs are the same: bit by bit."""
    folder, scheme = str(checkpoint("llama")), get_scheme("q4g32d")
    write_compressed(folder, uniform_compression(4, 4, 0.0), IDS, tmp_path / "smaller")
    source = open_checkpoint(folder)
    loader, full = Loader(source, torch.device("cpu"), "gptq"), get_scheme("fp32")
    plain = Loader(source, torch.device("cpu"))
    states, _ = run_observed(source.config, 0, plain.layer(0, full), IDS)
    _, moments = run_observed(source.config, 1, plain.layer(1, full), states, pairs=True)
    expected = loader.layer(1, scheme, moments=moments)
    smaller = Loader(open_checkpoint(tmp_path / "smaller"), torch.device("cpu"))
    found = smaller.layer(1, get_scheme("stored"))
    for name in moments:
        assert torch.equal(numbers_of(getattr(found, name)), numbers_of(getattr(expected, name)))


@pytest.mark.parametrize("family", ["llama-biases", "qwen3"])
def test_two_of_four_in_every_matrix_and_no_others_stored(
    checkpoint: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    way, folder = Compression((4, 3, 8, 2), (0.5,) * 4), tmp_path / "smaller"
    size = write_compressed(str(checkpoint(family)), way, IDS, folder, among=4)
    smaller, model = open_checkpoint(folder), random_model(family)
    for number, scheme in enumerate(("q4g32ds", "q3g32ds", "q8g32ds", "q2g32d")):
        for name in [x for x in smaller.matrices if f"layers.{number}." in x]:
            assert smaller.matrices[name].scheme == scheme
            near = (smaller.read(name) != 0).view(-1, 4).sum(-1)
            assert int(near.max()) <= 2
    assert size == smaller.spec.weight_bytes(["stored"] * smaller.spec.num_layers)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(smaller.read(name))
        expected = model(IDS).logits
    assert float(divergence(expected, logits(folder, "stored")).mean()) < 0.02


def test_layers_travel_as_files(written: Written, tmp_path: Path) -> None:
    """As to a device that has no copy of the model."""
    source = open_checkpoint(written("llama-tied"))
    stored, shape = get_scheme("stored"), ModelShape.from_json(ModelShape.of(source).to_json())
    layer = Loader(source, torch.device("cpu")).layer(2, stored)
    save_layer(layer, tmp_path / "file")
    same = load_layer(shape, 2, stored, tmp_path / "file", torch.device("cpu"))
    state = layer.state_dict()
    assert all(torch.equal(x, state[name]) for name, x in same.state_dict().items())


def test_errors_are_those_of_one_block_alone(checkpoint: Callable[[str], Path]) -> None:
    """The last block's, by a whole model of transformers' in which it alone is pruned by all."""
    folder = str(checkpoint("llama"))
    errors = measure_block_errors(folder, IDS, (3, 8), (0.5, 1.0))
    assert all(a > 10 * b for a, b in zip(errors.by_bits[3], errors.by_bits[8], strict=True))
    assert all(a > b for a, b in zip(errors.by_sparsity[1.0], errors.by_sparsity[0.5], strict=True))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    seen: list[torch.Tensor] = []
    block = model.model.layers[3]

    def keep(_module: object, _inputs: object, made: torch.Tensor) -> None:
        seen.append(made[0] if isinstance(made, tuple) else made)

    block.register_forward_hook(keep)
    with torch.no_grad():
        model(IDS)
        for parameter in block.parameters():
            if parameter.ndim == 2:
                parameter.zero_()
        model(IDS)
    before, after = (x[:, 1:].double() for x in seen)
    expected = float((before - after).square().sum() / before.square().sum())
    assert errors.by_sparsity[1.0][3] == pytest.approx(expected, rel=1e-3)
    assert errors.of_pruning[3] == pytest.approx(
        (errors.by_sparsity[0.5][3] + errors.by_sparsity[1.0][3]) / 2
    )


def test_the_tokenizer_comes_along(tmp_path: Path) -> None:
    ids = torch.randint(400, (2, 16), generator=torch.Generator().manual_seed(0))
    blocks = open_checkpoint("demo").config.num_blocks
    write_compressed("demo", uniform_compression(blocks, 8, 0.0), ids, tmp_path / "smaller")
    theirs, ours = load_tokenizer("demo"), load_tokenizer(tmp_path / "smaller")
    assert ours.encode("Where is the bus?") == theirs.encode("Where is the bus?")
    assert ours.stop_ids == theirs.stop_ids


def test_other_programs_refuse_it(written: Written) -> None:
    with pytest.raises(ValueError, match="edgewise"):
        transformers.AutoModelForCausalLM.from_pretrained(written("llama"))


def test_a_folder_that_is_there(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        write_compressed(str(checkpoint("llama")), MIXED, IDS, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_nothing_is_left_of_what_failed(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    def fail(step: str) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(DiskError, match=r"cannot be written.*No space"):
        write_compressed(str(checkpoint("llama")), MIXED, IDS, tmp_path / "smaller", on_step=fail)
    assert list(tmp_path.iterdir()) == []


def test_narrow_embeddings(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="narrower"):
        write_compressed(str(checkpoint("opt-350m")), MIXED, IDS, tmp_path / "smaller")


@pytest.fixture
def damaged(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> Callable[[Callable[[dict], None]], Path]:
    """A compressed folder whose description was changed."""
    folder = tmp_path / "smaller"
    write_compressed(str(checkpoint("llama")), MIXED, IDS, folder)

    def change(by: Callable[[dict], None]) -> Path:
        path = folder / "config.json"
        document = json.loads(path.read_text())
        by(document["quantization_config"])
        path.write_text(json.dumps(document))
        return folder

    return change


Q = "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("by", "message"),
    [
        (lambda x: x.update(format=9), "of format 9; this version reads 1"),
        (lambda x: x.update(more=1), "unknown field"),
        (lambda x: x.pop("matrices"), "matrices"),
        (lambda x: x["matrices"].update({Q: 3}), "quantization_config"),
        (lambda x: x["matrices"][Q].update(scheme="q9"), "cannot be"),
        (lambda x: x["matrices"][Q].update(scheme="t8"), "cannot be"),
        (lambda x: x["matrices"][Q].update(rows=0), "cannot be"),
        (lambda x: x["matrices"][Q].update(rows=10**9), "not of the shape"),
        (lambda x: x["matrices"].pop(Q), f"does not say what '{Q}' is"),
        (lambda x: x["matrices"][Q].update(scheme="q4g32d"), "is not that of a matrix"),
    ],
)
def test_descriptions_that_cannot_be(
    damaged: Callable, by: Callable[[dict], None], message: str
) -> None:
    folder = damaged(by)
    with pytest.raises(ModelError, match=message):
        load_shard(folder, schemes="stored")


@pytest.mark.parametrize("change", ["cut", "missing", "other"])
def test_files_that_are_damaged(damaged: Callable, change: str) -> None:
    folder = damaged(lambda x: None)
    path = folder / "layer-00002.safetensors"
    if change == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif change == "missing":
        path.unlink()
    else:
        tensors = load_file(path)
        tensors.pop(f"{Q}.scale")
        save_file(tensors, path)
    with pytest.raises(ModelError, match="layer-00002"):
        load_shard(folder, schemes="stored")
