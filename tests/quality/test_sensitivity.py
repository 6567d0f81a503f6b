"""Streamed layer by layer, against whole models with one layer changed."""

import weakref

import numpy as np
import pytest
import torch
import transformers

from edgewise.errors import InputError, SchemeError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.loading import Loader
from edgewise.quality import plan_loss, sensitivity
from edgewise.quality.plan_loss import plan_losses
from edgewise.quality.sensitivity import measure_sensitivity
from edgewise.sensitivities import Sensitivity
from tests.conftest import VOCABULARY

SCHEMES = ("fp32", "bf16", "q2g32", "q4g64")
FAMILIES = ("llama", "llama-tied", "opt-350m", "qwen3", "mistral-window")


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_lose_together_what_whole_models_lose(
    checkpoint, ids, log_probabilities, kl, family
):
    folder = checkpoint(family)
    measured = measure_sensitivity(str(folder), SCHEMES, ids)
    full = log_probabilities(folder, ["fp32"] * 6)
    for scheme in SCHEMES:
        expected = kl(full, log_probabilities(folder, [scheme] * 6))
        assert sum(measured.losses[scheme]) == pytest.approx(expected, abs=1e-6, rel=1e-3)


def test_layers_share_that_as_they_would_lose_alone(checkpoint):
    folder = str(checkpoint("llama"))
    many = torch.randint(VOCABULARY, (24, 20), generator=torch.Generator().manual_seed(1))
    losses = measure_sensitivity(folder, ["q4g64"], many).losses["q4g64"]
    alone = [
        loss.mean
        for loss in plan_losses(
            folder, [["fp32"] * i + ["q4g64"] + ["fp32"] * (5 - i) for i in range(6)], many
        )
    ]
    shares, expected = ([loss / sum(each) for loss in each] for each in (losses, alone))
    assert max(expected) > 4 * min(expected)
    assert shares == pytest.approx(expected, rel=0.5, abs=0.08)


def test_the_reference_is_what_transformers_calls_the_loss(checkpoint, ids):
    folder = checkpoint("llama")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = float(model(ids, labels=ids).loss)
    measured = measure_sensitivity(str(folder), ["bf16"], ids)
    assert measured.reference == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_plans_lose_what_whole_models_lose(checkpoint, ids, log_probabilities, kl, family):
    folder = checkpoint(family)
    plans = [
        ("q2g32",) * 6,
        ("bf16", "q4g64", "fp32", "q2g32", "q8g64a", "bf16"),
        ("fp32",) * 6,
    ]
    full = log_probabilities(folder, ["fp32"] * 6)
    losses = plan_losses(str(folder), plans, ids)
    for plan, loss in zip(plans, losses, strict=True):
        expected = kl(full, log_probabilities(folder, plan))
        assert loss.mean == pytest.approx(expected, abs=1e-6, rel=1e-4)


def test_a_text_that_begins_with_padding_has_losses_in_a_deep_model(tmp_path):
    """The embedding of padding is zeros, of which every norm magnifies the gradient."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    config = transformers.LlamaConfig(
        **sizes, vocab_size=VOCABULARY, num_hidden_layers=32, pad_token_id=0
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    ids = torch.randint(1, VOCABULARY, (4, 12), generator=torch.Generator().manual_seed(2))
    ids[:, 0], ids[1, 1], ids[2, 7] = 0, 0, 0
    model, scheme = str(tmp_path), "q4g64"
    losses = measure_sensitivity(model, [scheme], ids).losses[scheme]
    (whole,) = plan_losses(model, [(scheme,) * 34], ids)
    assert sum(losses) == pytest.approx(whole.mean, rel=1e-6)
    assert min(losses) > 0


def test_states_may_lie_in_a_file(checkpoint, ids, monkeypatch):
    folder = str(checkpoint("llama"))
    inside = measure_sensitivity(folder, SCHEMES, ids)
    monkeypatch.setattr(sensitivity, "MOST_IN_MEMORY", 1)
    assert measure_sensitivity(folder, SCHEMES, ids) == inside


def test_one_layer_at_a_time_is_in_memory(checkpoint, ids, monkeypatch):
    alive, most, load = [], [], Loader.layer

    def counted(self, number, scheme, *rest, **named):
        layer = load(self, number, scheme, *rest, **named)
        alive[:] = [reference for reference in alive if reference() is not None]
        alive.append(weakref.ref(layer))
        most.append(sum(reference() is not None for reference in alive))
        return layer

    monkeypatch.setattr(Loader, "layer", counted)
    monkeypatch.setattr(plan_loss, "MOST_BYTES", 0)
    measure_sensitivity(str(checkpoint("llama")), SCHEMES, ids)
    assert len(most) > 20
    assert max(most) <= 3  # the layer at full precision, in a scheme, and the one before it


def test_weights_are_squared_differences_over_all_weights(checkpoint, ids):
    folder = str(checkpoint("llama"))
    measured = measure_sensitivity(folder, ["bf16", "fp32"], ids, "weights")
    model = open_checkpoint(folder)
    total = sum(r * c for layer in model.spec.layers for r, c in layer.matrices)
    block = [
        f"model.layers.2.{name}.weight"
        for name in (
            "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
            "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
        )
    ]  # fmt: skip
    expected = 0.0
    for name in block:
        weight = model.read(name).numpy().astype(np.float64)
        rounded = model.read(name).bfloat16().float().numpy()
        expected += ((rounded - weight) ** 2).sum()
    assert measured.losses["bf16"][3] == pytest.approx(expected / total, rel=1e-6)
    assert set(measured.losses["fp32"]) == {0.0}


def test_variance_is_the_steps_square_times_the_inputs_variance(checkpoint, ids):
    """For the head, whose input `transformers` gives."""
    folder = str(checkpoint("llama"))
    measured = measure_sensitivity(folder, ["q4g64", "q8g64"], ids, "variance")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        inputs = model.model(ids).last_hidden_state.flatten(0, 1).double().numpy()
    weight = model.lm_head.weight.detach().numpy()
    spread = (weight.max(1) - weight.min(1)).max()
    for name, levels in (("q4g64", 7), ("q8g64", 127)):
        expected = (spread / levels) ** 2 * inputs.var(0).sum()
        assert measured.losses[name][-1] == pytest.approx(expected, rel=1e-4)
    assert measured.losses["q4g64"][0] == 0.0  # looking up is no product


def test_it_survives_its_file(checkpoint, ids, tmp_path):
    measured = measure_sensitivity(str(checkpoint("llama")), ["bf16"], ids)
    path = tmp_path / "s.json"
    path.write_text(measured.to_json())
    assert Sensitivity.load(path) == measured


def test_what_does_not_exist_is_refused(checkpoint, ids):
    folder = str(checkpoint("llama"))
    with pytest.raises(InputError, match="unknown metric 'hessian'; known metrics: kl, weights"):
        measure_sensitivity(folder, ["bf16"], ids, "hessian")
    with pytest.raises(SchemeError, match="unknown scheme 'q9'"):
        measure_sensitivity(folder, ["q9"], ids)
