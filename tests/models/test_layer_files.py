"""Layers from files: the same bits as from the checkpoint, or a ModelError that names the file."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from edgewise.errors import ModelError
from edgewise.models.cache import Segment
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.layer_files import FORMAT, layers_from_files, load_layer
from edgewise.models.layer_store import LayerFiles
from edgewise.models.loading import Loader
from edgewise.models.shape import ModelShape
from edgewise.models.shard import Shard, load_shard
from edgewise.plans import Stage
from edgewise.schemes import RECIPES, SCHEMES, get_scheme
from tests.models.gguf_files import small_model, write_gguf
from tests.models.test_gguf import mixed

TOKENS = torch.tensor([1, 30, 7, 66, 2, 2, 45, 19, 3, 50])
CPU = torch.device("cpu")
ROUNDED = [name for name in SCHEMES if not get_scheme(name).half]
SOME = ["fp32", "bf16", "fp16", "stored", "q4g64", "q3g32a", "q4g32ad", "q6g16d", "q4g32ds"]
SOME += ["t6", *RECIPES]


def logits(shard):
    return shard.forward(TOKENS, [Segment(0, 0, len(TOKENS))])


def from_files(files, start, schemes):
    """A shard of layers from files, by a device that knows only the shape."""
    shape = ModelShape.from_json(ModelShape.of(files.checkpoint).to_json())
    stage = Stage("far", start, start + len(schemes), tuple(schemes))
    layers = layers_from_files(shape, start, schemes, files.of_stage(stage), files.folder)
    return Shard(shape.config, start, layers, slots=1, context=len(TOKENS))


def assert_same(shard, other):
    """Tensor by tensor, and what they compute."""
    for layer, wanted in zip(shard.layers, other.layers, strict=True):
        state, expected = layer.state_dict(), wanted.state_dict()
        assert state.keys() == expected.keys()
        assert layer.origin.scheme == wanted.origin.scheme
        for name, tensor in expected.items():
            assert tensor.dtype == state[name].dtype
            assert torch.equal(tensor, state[name]), name
        assert [type(x) for x in layer.modules()] == [type(x) for x in wanted.modules()]
    assert shard.weight_bytes == other.weight_bytes
    assert torch.equal(logits(shard), logits(other))


@pytest.mark.parametrize("family", ["llama-tied", "qwen3", "opt-350m", "mistral-window", "opt"])
@pytest.mark.parametrize("scheme", SOME)
def test_every_family_is_the_checkpoints(checkpoint, tmp_path, family, scheme):
    folder = checkpoint(family)
    wanted = load_shard(folder, schemes=scheme)
    files = LayerFiles(open_checkpoint(folder), folder=tmp_path)
    assert_same(from_files(files, 0, [scheme] * wanted.end), wanted)


@pytest.mark.parametrize("scheme", ROUNDED)
def test_every_scheme_is_the_checkpoints(checkpoint, tmp_path, scheme):
    """Each with a block of its own."""
    wanted = load_shard(checkpoint("llama-biases"), 1, 2, scheme)
    files = LayerFiles(open_checkpoint(checkpoint("llama-biases")), folder=tmp_path)
    layer = from_files(files, 1, [scheme]).layers[0]
    for name, tensor in wanted.layers[0].state_dict().items():
        assert torch.equal(tensor, layer.state_dict()[name]), name


@pytest.mark.parametrize("scheme", ["stored", "4bit", "bf16"])
@pytest.mark.parametrize("tied", [True, False])
def test_gguf_files_are_the_checkpoints(tmp_path, scheme, tied):
    path = write_gguf(tmp_path / "m.gguf", small_model(tie_word_embeddings=tied), mixed)
    wanted = load_shard(path, schemes=scheme)
    files = LayerFiles(open_checkpoint(path), folder=tmp_path / "files")
    assert_same(from_files(files, 0, [scheme] * wanted.end), wanted)


@pytest.mark.parametrize("scheme", ["q4g32", "bf16", "stored"])
def test_a_tied_matrix_is_sent_once(checkpoint, tmp_path, scheme):
    model = open_checkpoint(checkpoint("llama-tied"))
    files = LayerFiles(model, folder=tmp_path)
    *_, beside = files.of_stage(Stage("far", 0, 6, (scheme,) * 6))
    (alone,) = files.of_stage(Stage("far", 5, 6, (scheme,)))
    table = model.spec.layers[0].matrix_bytes(get_scheme(scheme), 0)
    assert beside.size <= alone.size - table
    head = from_files(files, 5, [scheme])
    wanted = load_shard(checkpoint("llama-tied"), 5, 6, scheme)
    assert torch.equal(
        head.forward(torch.ones(3, 32), [Segment(0, 0, 3)]),
        wanted.forward(torch.ones(3, 32), [Segment(0, 0, 3)]),
    )
    shape = ModelShape.of(model)
    path = tmp_path / f"{beside.key}.safetensors"
    with pytest.raises(ModelError, match=f"{beside.key}.*takes the embedding's; no embedding"):
        load_layer(shape, 5, get_scheme(scheme), path, CPU)
    other = Loader(model, CPU).layer(0, get_scheme("q8g64"))
    with pytest.raises(ModelError, match="takes the embedding's; no embedding"):
        load_layer(shape, 5, get_scheme(scheme), path, CPU, other)


def test_unlike_schemes_share_nothing(checkpoint, tmp_path):
    schemes = ["q4g32", *["bf16"] * 4, "q8g32"]
    files = LayerFiles(open_checkpoint(checkpoint("llama-tied")), folder=tmp_path)
    assert_same(from_files(files, 0, schemes), load_shard(checkpoint("llama-tied"), 0, 6, schemes))
    with pytest.raises(ModelError, match=r"layer 4 of .* shares no matrix"):
        files.file(4, "bf16", shared=True)


@pytest.fixture(scope="module")
def block(checkpoint, tmp_path_factory):
    """(Where it is from, a block's file, its path, its bytes)."""
    files = LayerFiles(
        open_checkpoint(checkpoint("llama")), folder=tmp_path_factory.mktemp("files")
    )
    file = files.file(1, "q4g32ad")
    path = files.folder / f"{file.key}.safetensors"
    return files, file, path, path.read_bytes()


@given(st.data())
def test_damaged_files_are_named(block, data):
    """Cut, longer, or with bits turned over, anywhere, most of all in the header."""
    files, file, path, whole = block
    at = data.draw(st.integers(0, len(whole) - 1) | st.integers(0, 1200))
    kind = data.draw(st.sampled_from(["cut", "longer", "other"]))
    other = whole[at] ^ data.draw(st.integers(1, 255))
    damaged = {
        "cut": whole[:at],
        "longer": whole + b"x" * (at + 1),
        "other": whole[:at] + bytes([other]) + whole[at + 1 :],
    }[kind]
    path.write_bytes(damaged)
    shape = ModelShape.of(files.checkpoint)
    try:
        layer = load_layer(shape, 1, get_scheme("q4g32ad"), path, CPU)
    except ModelError as error:
        assert str(path) in str(error)
    else:
        assert kind == "other"  # numbers, which have no wrong ones
        wanted = load_shard(files.checkpoint, 1, 2, "q4g32ad").layers[0].state_dict()
        assert {k: x.shape for k, x in layer.state_dict().items()} == {
            k: x.shape for k, x in wanted.items()
        }
    with pytest.raises(ModelError, match=f"{file.key}.*damaged"):
        layers_from_files(shape, 1, ["q4g32ad"], [file], files.folder)
    assert not path.exists()


@pytest.mark.parametrize(
    ("number", "scheme"), [(1, "q4g32a"), (1, "q5g32ad"), (1, "bf16"), (0, "q4g32ad"), (5, "4bit")]
)
def test_another_layer_is_refused(block, number, scheme):
    files, _, path, whole = block
    path.write_bytes(whole)
    with pytest.raises(ModelError, match=f"{path}: .* layer {number} of "):
        load_layer(ModelShape.of(files.checkpoint), number, get_scheme(scheme), path, CPU)


@pytest.mark.parametrize("change", ["type", "size", "more", "format"])
def test_other_tensors_are_refused(block, tmp_path, change):
    files, _, path, whole = block
    path.write_bytes(whole)
    tensors, written = load_file(path), FORMAT
    if change == "type":
        tensors["qkv.codes"] = tensors["qkv.codes"].view(torch.int8)
    elif change == "size":
        tensors["qkv.codes"] = tensors["qkv.codes"][:1].clone()
    elif change == "more":
        tensors["other"] = torch.ones(1)
    else:
        written = "0.0"
    save_file(tensors, tmp_path / "f", metadata={"format": written})
    with pytest.raises(ModelError, match=str(tmp_path / "f")):
        load_layer(ModelShape.of(files.checkpoint), 1, get_scheme("q4g32ad"), tmp_path / "f", CPU)


def test_a_layer_without_a_file_is_named(block):
    files, file, _, _ = block
    with pytest.raises(ModelError, match=r"layer 2 of .* has no file"):
        layers_from_files(ModelShape.of(files.checkpoint), 2, ["bf16"], [file], files.folder)
