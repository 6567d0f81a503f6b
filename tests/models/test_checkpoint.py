"""Checkpoints: what is refused and how it is said, and loading from the hub's own cache."""

import json
import shutil

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from edgewise.errors import ModelError
from edgewise.models.cache import Segment
from edgewise.models.checkpoint import open_checkpoint, save_checkpoint
from edgewise.models.config import DecoderConfig
from edgewise.models.decoder import Decoder
from edgewise.models.shard import load_shard
from tests.conftest import FAMILIES, VOCABULARY, random_model


@pytest.fixture
def copy(checkpoint, tmp_path):
    """A checkpoint of its own, whose tensors and configuration a test may change."""

    def make(family="llama", config=lambda c: None, tensors=lambda t: None):
        folder = tmp_path / family
        shutil.copytree(checkpoint(family), folder)
        document = json.loads((folder / "config.json").read_text())
        config(document)
        (folder / "config.json").write_text(json.dumps(document))
        weights = load_file(folder / "model.safetensors")
        tensors(weights)
        save_file(weights, folder / "model.safetensors")
        return folder

    return make


def failure(folder, *layers):
    with pytest.raises(ModelError) as error:
        load_shard(folder, *layers)
    return str(error.value)


def test_a_missing_tensor_is_named(copy):
    folder = copy(tensors=lambda t: t.pop("model.layers.2.self_attn.k_proj.weight"))
    assert failure(folder) == (
        f"{folder}: tensor 'model.layers.2.self_attn.k_proj.weight' is missing from the checkpoint"
    )
    load_shard(folder, 0, 3)  # the layers that are complete still load


def test_a_wrong_shape_is_named(copy):
    name = "model.layers.1.mlp.down_proj.weight"
    folder = copy(tensors=lambda t: t.update({name: torch.zeros(32, 57)}))
    assert failure(folder) == (
        f"{folder}: tensor '{name}' in model.safetensors has shape [32, 57], "
        "but the configuration asks for [32, 56]"
    )
    name = "model.layers.1.self_attn.v_proj.weight"
    folder = copy("qwen3", tensors=lambda t: t.update({name: torch.zeros(25, 32)}))
    assert "has shape [25, 32], but the configuration asks for [24, 32]" in failure(folder)


def test_a_wrong_type_is_named(copy):
    name = "model.norm.weight"
    folder = copy(tensors=lambda t: t.update({name: torch.zeros(32, dtype=torch.int8)}))
    assert failure(folder) == (
        f"{folder}/model.safetensors: tensor '{name}' is int8; supported: fp32, bf16, fp16"
    )


def test_pickled_weights_are_refused(copy):
    folder = copy()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert failure(folder) == (
        f"{folder}: no model.safetensors and no model.safetensors.index.json; only safetensors "
        "weights are read (pickled .bin files can run code when opened)"
    )


def test_a_truncated_file_of_an_index_names_file_and_tensor(tmp_path):
    random_model("llama").save_pretrained(tmp_path, max_shard_size="20KB")
    checkpoint = open_checkpoint(tmp_path)
    tensor = "model.layers.1.mlp.up_proj.weight"
    path = tmp_path / checkpoint.files[tensor]
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelError) as error:
        checkpoint.read(tensor)
    assert str(error.value).startswith(f"{path}: cannot read tensor '{tensor}': ")
    path.unlink()
    assert failure(tmp_path, 2, 3) == (
        f"{tmp_path}: file {path.name}, which should hold tensor "
        f"'{_first_tensor_in(checkpoint, path.name)}', does not exist"
    )


def test_a_truncated_file_that_is_to_tell_the_type_is_named(tmp_path):
    random_model("llama").save_pretrained(tmp_path, max_shard_size="20KB")
    config = json.loads((tmp_path / "config.json").read_text())
    del config["dtype"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint = open_checkpoint(tmp_path)
    table = "model.embed_tokens.weight"
    path = tmp_path / checkpoint.files[table]
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelError) as error:
        _ = checkpoint.spec
    assert str(error.value).startswith(f"{path}: cannot read tensor '{table}': ")


def _first_tensor_in(checkpoint, file):
    """The first tensor of block 1, in loading order, that lies in `file`."""
    order = ("input_layernorm", "q_proj", "k_proj", "v_proj", "o_proj", "post_attention_layernorm")
    order += ("gate_proj", "up_proj", "down_proj")
    names = [t for t, f in checkpoint.files.items() if ".layers.1." in t and f == file]
    return min(names, key=lambda t: next(i for i, part in enumerate(order) if part in t))


def test_an_index_cannot_leave_the_folder(tmp_path):
    random_model("llama").save_pretrained(tmp_path, max_shard_size="20KB")
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    first = next(iter(content["weight_map"]))
    content["weight_map"][first] = "../secret"
    index.write_text(json.dumps(content))
    assert failure(tmp_path) == f"{index}: file name '../secret' leaves the model's folder"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("hidden_size"), "key 'hidden_size' is missing"),
        (
            lambda c: c.update(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4}),
            "rope scaling 'yarn' is not supported; supported: default, linear, llama3",
        ),
        (
            lambda c: c.update(hidden_act="gelu"),
            "activation 'gelu' is not supported with gated MLPs",
        ),
        (
            lambda c: c.update(architectures=None, model_type="bert"),
            "unsupported architecture none (model_type 'bert'); supported: LlamaForCausalLM, "
            "MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, OPTForCausalLM",
        ),
    ],
)
def test_configurations_we_cannot_run_are_refused(copy, change, message):
    folder = copy(config=change)
    assert failure(folder) == f"{folder}/config.json: {message}"


@pytest.mark.parametrize(
    ("key", "setting"),
    [
        *(("sliding_window", x) for x in (-3, 0, "x", 2.0)),
        *(("layer_types", ["sliding_attention"] * n) for n in (1, 99)),
        ("hidden_size", 32.0),
        *(("rms_norm_eps", x) for x in ("x", None, -1.0, float("nan"))),
        ("vocab_size", True),
        ("num_hidden_layers", 10**13),
        ("max_position_embeddings", 2**45),
        *(("architectures", x) for x in (5, [["x"]], {"x": 1})),
    ],
)
def test_settings_that_cannot_be_are_named(checkpoint, key, setting):
    document = json.loads((checkpoint("mistral-window") / "config.json").read_text())
    DecoderConfig.from_dict(document)
    with pytest.raises(ModelError, match=f"^here: .*{key}"):
        DecoderConfig.from_dict({**document, key: setting}, "here")


@pytest.mark.parametrize("off", [{"sliding_window": None}, {"use_sliding_window": False}])
def test_windows_may_be_off(checkpoint, off):
    document = json.loads((checkpoint("qwen2-window") / "config.json").read_text())
    assert any(DecoderConfig.from_dict(document).windows)
    assert not any(DecoderConfig.from_dict({**document, **off}).windows)


def test_broken_json_is_refused(copy):
    folder = copy()
    (folder / "config.json").write_text("{")
    assert failure(folder).startswith(f"{folder}/config.json: not readable as JSON: ")


def test_older_spellings_of_rope_settings(copy, checkpoint):
    def older(config):
        parameters = config.pop("rope_parameters")
        config["rope_theta"] = parameters.pop("rope_theta")
        config["rope_scaling"] = {"type": parameters.pop("rope_type"), **parameters}

    read = open_checkpoint(copy("llama3-rope", config=older)).config
    assert read == open_checkpoint(checkpoint("llama3-rope")).config


def test_a_bare_decoder_lacks_the_prefix(copy, checkpoint):
    def bare(tensors):
        for name in [n for n in tensors if n.startswith("model.")]:
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    tokens = torch.arange(5)
    expected = load_shard(checkpoint("opt")).forward(tokens, [Segment(0, 0, 5)])
    logits = load_shard(copy("opt", tensors=bare)).forward(tokens, [Segment(0, 0, 5)])
    assert torch.equal(logits, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_files_load_at_full_precision(tmp_path, dtype):
    model = random_model("llama").to(dtype)
    model.save_pretrained(tmp_path)
    tokens = torch.randint(VOCABULARY, (9,))
    with torch.no_grad():
        expected = model.float()(tokens[None]).logits[0]
    assert (load_shard(tmp_path).forward(tokens, [Segment(0, 0, 9)]) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_decoder_loads_in_transformers(tmp_path, checkpoint, family):
    config = open_checkpoint(checkpoint(family)).config
    decoder = Decoder(config)
    decoder.init_weights(std=0.3)
    shutil.copy(checkpoint(family) / "config.json", tmp_path)
    save_checkpoint(decoder, tmp_path, torch.float32)
    theirs = type(random_model(family)).from_pretrained(tmp_path)
    tokens = torch.randint(VOCABULARY, (1, 13))
    with torch.no_grad():
        assert (theirs(tokens).logits - decoder(tokens)).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["./nope", "../nope", "a--b/c", "-x/y", "nope/", "nope"])
def test_what_is_no_hub_id_is_no_such_folder(name):
    with pytest.raises(ModelError, match=f"^{name}: no such folder$"):
        open_checkpoint(name)


@pytest.fixture
def hub(checkpoint, tmp_path, monkeypatch):
    """The hub's local cache with one repository in it, as a download leaves it."""
    commit = "0" * 40
    repository = tmp_path / "models--tiny--llama"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(checkpoint("llama"), repository / "snapshots" / commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("hub")
def test_a_hub_id_loads_through_the_hub_library(checkpoint):
    tokens = torch.arange(6)
    states = load_shard("tiny/llama", 0, 3).forward(tokens, [Segment(0, 0, 6)])
    expected = load_shard(checkpoint("llama"), 0, 3).forward(tokens, [Segment(0, 0, 6)])
    assert torch.equal(states, expected)


@pytest.mark.usefixtures("hub")
def test_a_hub_id_that_cannot_be_reached_says_so():
    with pytest.raises(
        ModelError, match=r"^other/model: no such folder, and the hub cannot be reach"
    ):
        open_checkpoint("other/model")
