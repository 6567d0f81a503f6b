"""Streamed layer by layer, against whole models with one layer changed."""

import weakref

import numpy as np
import pytest
import torch
import transformers

from edgewise.errors import InputError, SchemeError
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.loading import Loader
from edgewise.quality import sensitivity
from edgewise.quality.plan_loss import plan_losses
from edgewise.quality.sensitivity import measure_sensitivity
from edgewise.sensitivities import Sensitivity

SCHEMES = ("fp32", "bf16", "q2g32", "q4g64")
FAMILIES = ("llama", "llama-tied", "opt-350m", "qwen3", "mistral-window")


@pytest.mark.parametrize("family", FAMILIES)
def test_kl_is_that_of_whole_models(checkpoint, ids, log_probabilities, kl, family):
    folder = checkpoint(family)
    found = measure_sensitivity(str(folder), SCHEMES, ids)
    full = log_probabilities(folder, ["fp32"] * 6)
    for scheme in SCHEMES:
        for layer in range(6):
            changed = ["fp32"] * 6
            changed[layer] = scheme
            expected = kl(full, log_probabilities(folder, changed))
            assert found.losses[scheme][layer] == pytest.approx(expected, abs=1e-6, rel=1e-4)


def test_the_reference_is_what_transformers_calls_the_loss(checkpoint, ids):
    folder = checkpoint("llama")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = float(model(ids, labels=ids).loss)
    found = measure_sensitivity(str(folder), ["bf16"], ids)
    assert found.reference == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_plans_lose_what_whole_models_lose(checkpoint, ids, log_probabilities, kl, family):
    folder = checkpoint(family)
    plans = [
        ("q2g32",) * 6,
        ("bf16", "q4g64", "fp32", "q2g32", "q8g64a", "bf16"),
        ("fp32",) * 6,
    ]
    full = log_probabilities(folder, ["fp32"] * 6)
    found = plan_losses(str(folder), plans, ids)
    for plan, loss in zip(plans, found, strict=True):
        expected = kl(full, log_probabilities(folder, plan))
        assert loss.mean == pytest.approx(expected, abs=1e-6, rel=1e-4)


def test_states_may_lie_in_a_file(checkpoint, ids, monkeypatch):
    folder = str(checkpoint("llama"))
    inside = measure_sensitivity(folder, SCHEMES, ids)
    monkeypatch.setattr(sensitivity, "MOST_IN_MEMORY", 1)
    assert measure_sensitivity(folder, SCHEMES, ids) == inside


def test_one_layer_at_a_time_is_in_memory(checkpoint, ids, monkeypatch):
    alive, most, load = [], [], Loader.layer

    def counted(self, number, scheme, *rest, **named):
        layer = load(self, number, scheme, *rest, **named)
        alive[:] = [x for x in alive if x() is not None]
        alive.append(weakref.ref(layer))
        most.append(sum(x() is not None for x in alive))
        return layer

    monkeypatch.setattr(Loader, "layer", counted)
    measure_sensitivity(str(checkpoint("llama")), SCHEMES, ids)
    assert len(most) > 20
    assert max(most) <= 3  # the layer at full precision, in a scheme, and the one before it


def test_weights_are_squared_differences_over_all_weights(checkpoint, ids):
    folder = str(checkpoint("llama"))
    found = measure_sensitivity(folder, ["bf16", "fp32"], ids, "weights")
    model = open_checkpoint(folder)
    total = sum(r * c for x in model.spec.layers for r, c in x.matrices)
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
    assert found.losses["bf16"][3] == pytest.approx(expected / total, rel=1e-6)
    assert set(found.losses["fp32"]) == {0.0}


def test_variance_is_the_steps_square_times_the_inputs_variance(checkpoint, ids):
    """For the head, whose input `transformers` gives."""
    folder = str(checkpoint("llama"))
    found = measure_sensitivity(folder, ["q4g64", "q8g64"], ids, "variance")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        inputs = model.model(ids).last_hidden_state.flatten(0, 1).double().numpy()
    weight = model.lm_head.weight.detach().numpy()
    spread = (weight.max(1) - weight.min(1)).max()
    for name, levels in (("q4g64", 7), ("q8g64", 127)):
        expected = (spread / levels) ** 2 * inputs.var(0).sum()
        assert found.losses[name][-1] == pytest.approx(expected, rel=1e-4)
    assert found.losses["q4g64"][0] == 0.0  # looking up is no product


def test_it_survives_its_file(checkpoint, ids, tmp_path):
    found = measure_sensitivity(str(checkpoint("llama")), ["bf16"], ids)
    path = tmp_path / "s.json"
    path.write_text(found.to_json())
    assert Sensitivity.load(path) == found


def test_what_does_not_exist_is_refused(checkpoint, ids):
    folder = str(checkpoint("llama"))
    with pytest.raises(InputError, match="unknown metric 'hessian'; known metrics: kl, weights"):
        measure_sensitivity(folder, ["bf16"], ids, "hessian")
    with pytest.raises(SchemeError, match="unknown scheme 'q9'"):
        measure_sensitivity(folder, ["q9"], ids)
