"""Files of adapters against `peft`, there and back, and what is refused."""

import json

import peft
import pytest
import safetensors.torch
import torch
import transformers

from edgewise.adapters import AdapterConfig, Kind
from edgewise.adapters.files import CONFIG, WEIGHTS, fill, read_adapter
from edgewise.errors import InputError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.tuning.loading import load_tunable, save_tuned
from edgewise.tuning.method import TuningMethod
from edgewise.tuning.model import Window
from edgewise.tuning.recipe import Recipe
from edgewise.tuning.training import Training

# peft asks transformers by a name that will go.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

ALL, TOKENS = Window(0, 4), torch.tensor([[5, 9, 33, 21, 60, 7, 2]])
FAMILIES = ("llama", "llama-tied", "mistral", "qwen2", "qwen3", "opt")


@pytest.fixture
def made(checkpoint, tmp_path):
    """A model with adapters that add something, and the folder they were saved to."""

    def make(family="llama", kind=Kind.LORA, **options):
        opened, adapter = (
            open_checkpoint(str(checkpoint(family))),
            AdapterConfig(kind, 4, **options),
        )
        model = load_tunable(opened, "fp32", adapter, (ALL,))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for added in model.added:
                for low in added.values():
                    last = low.up if low.middle is None else low.middle
                    last.copy_(torch.randn(last.shape, generator=generator) * 0.1)
        recipe = Recipe(TuningMethod.LORA, adapter=adapter)
        save_tuned(Training(model, recipe, []).state()[1], tmp_path / "adapter", opened, recipe)
        return model, opened, tmp_path / "adapter"

    return make


@torch.no_grad()
def logits_of(model):
    return model.logits(model.through(model.entered(TOKENS), 0, 4), ALL)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", Kind)
def test_peft_loads_what_is_saved_here(made, family, kind):
    model, opened, folder = made(family, kind)
    base = transformers.AutoModelForCausalLM.from_pretrained(opened.model)
    plain = base(TOKENS).logits
    theirs = peft.PeftModel.from_pretrained(base, folder).eval()
    with torch.no_grad():
        logits = theirs(TOKENS).logits
    torch.testing.assert_close(logits_of(model), logits, rtol=1e-4, atol=1e-4)
    assert (logits - plain).abs().max() > 0.01


def test_what_peft_saves_is_loaded_here(made, checkpoint, tmp_path):
    base = transformers.AutoModelForCausalLM.from_pretrained(checkpoint("llama"))
    theirs = peft.get_peft_model(
        base, peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj", "up_proj"])
    ).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    theirs.save_pretrained(tmp_path / "theirs")
    opened = open_checkpoint(str(checkpoint("llama")))
    adapter, tensors = read_adapter(tmp_path / "theirs", opened.config, opened.spec.digest)
    assert (adapter.rank, adapter.scale, set(adapter.matrices)) == (4, 1.5, {"q", "v", "up"})
    model = load_tunable(opened, "fp32", adapter, (ALL,))
    fill(model.added, tensors)
    with torch.no_grad():
        torch.testing.assert_close(logits_of(model), theirs(TOKENS).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:PiSSA changes the base weights:UserWarning")
def test_one_that_changed_the_model_is_refused_until_peft_makes_it_plain(checkpoint, tmp_path):
    """PiSSA begins with the largest singular vectors, and takes them out of the matrices."""
    opened = open_checkpoint(str(checkpoint("llama")))
    base = transformers.AutoModelForCausalLM.from_pretrained(opened.model)
    config = peft.LoraConfig(
        r=4, lora_alpha=4, init_lora_weights="pissa", target_modules=r".*\.(q|v)_proj"
    )
    theirs = peft.get_peft_model(base, config).eval()
    theirs.peft_config["default"].init_lora_weights = True  # else it is taken out once more
    theirs.save_pretrained(tmp_path / "begun")
    theirs.peft_config["default"].init_lora_weights = "pissa"
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn(parameter.shape) * 0.1)
    theirs.save_pretrained(tmp_path / "theirs")
    refused(tmp_path / "theirs", opened, "'pissa' changed the model's own matrices")
    begun = str(tmp_path / "begun")
    theirs.save_pretrained(tmp_path / "plain", path_initial_model_for_weight_conversion=begun)
    adapter, tensors = read_adapter(tmp_path / "plain", opened.config, opened.spec.digest)
    assert adapter.matrices == ("q", "v")  # though an expression says which
    model = load_tunable(opened, "fp32", adapter, (ALL,))
    fill(model.added, tensors)
    with torch.no_grad():
        torch.testing.assert_close(logits_of(model), theirs(TOKENS).logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", Kind)
def test_there_and_back(made, kind):
    model, opened, folder = made("llama", kind)
    adapter, tensors = read_adapter(folder, opened.config, opened.spec.digest)
    again = load_tunable(opened, "fp32", adapter, (ALL,))
    fill(again.added, tensors)
    assert torch.equal(logits_of(again), logits_of(model))


def refused(folder, opened, says):
    with pytest.raises(InputError, match=says):
        read_adapter(folder, opened.config, opened.spec.digest)


def changed(folder, **values):
    document = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(document | values))


def test_an_adapter_of_another_model_is_refused(made, checkpoint):
    _, _, folder = made("llama")
    refused(folder, open_checkpoint(str(checkpoint("qwen3"))), "layers are others")


def test_wrong_shapes_and_numbers_are_refused(made):
    _, opened, folder = made("llama")
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    name = next(iter(tensors))
    for wrong, says in (
        (tensors[name][:, 1:], "but this model needs"),
        (tensors[name] * float("nan"), "no finite number"),
    ):
        broken = {**tensors, name: wrong.contiguous()}
        safetensors.torch.save_file(broken, folder / WEIGHTS)
        refused(folder, opened, says)
    safetensors.torch.save_file({**tensors, "other.weight": torch.zeros(2)}, folder / WEIGHTS)
    refused(folder, opened, "no matrix of this model's")
    half = {k: x for k, x in tensors.items() if k != name}
    safetensors.torch.save_file(half, folder / WEIGHTS)
    refused(folder, opened, "only one of lora_A and lora_B")
    (folder / WEIGHTS).write_bytes(b"\0" * 64)
    refused(folder, opened, "cannot read")


def test_pickles_are_never_read(made):
    _, opened, folder = made("llama")
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04N.")
    refused(folder, opened, "is a pickle")


@pytest.mark.parametrize(
    "values, says",
    [
        ({"peft_type": "IA3"}, "not the configuration of a LoRA"),
        ({"use_dora": True}, "use_dora = True is not supported"),
        ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern = .* is not supported"),
        ({"bias": "all"}, "bias = 'all' is not supported"),
        ({"r": 0}, "rank must be at least 1"),
        ({"r": "many"}, "ValueError"),
        ({"r": None}, "TypeError"),
        ({"r": float("inf")}, "OverflowError"),
        ({"lora_alpha": float("nan")}, "alpha must be a finite number, not nan"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens = .* is not supported"),
        ({"use_qalora": True}, "use_qalora = True is not supported"),
        ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "loftq"}, "'loftq' changed the model's own matrices"),
    ],
)
def test_other_configurations_are_refused(made, values, says):
    _, opened, folder = made("llama")
    changed(folder, **values)
    refused(folder, opened, says)
