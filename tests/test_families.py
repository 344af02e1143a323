"""The contract of every family, on tiny random models."""

import json
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import tiny
from secateurs import apply
from secateurs.errors import InputError, UnsupportedModelError
from secateurs.models.families import FAMILIES, find_family, find_feedforwards, find_layers
from secateurs.models.loading import load_model, wrap_model
from secateurs.models.sizes import measure_size, predict_size

KEPT = 9
CASES = list(tiny.CASES)


def test_every_family_has_a_tiny_model():
    assert {tiny.make_model(case).config.model_type for case in CASES} == set(FAMILIES)


@pytest.mark.parametrize("case", CASES)
class TestFamily:
    """What a row of the table promises."""

    def test_all_feedforward_networks_are_found(self, case):
        model = tiny.make_model(case)
        expected = {"albert": 1, "t5": 2 * tiny.LAYERS, "t5-gated": 2 * tiny.LAYERS}.get(case, tiny.LAYERS)
        assert len(find_feedforwards(model, tiny.family_of(model))) == expected

    def test_the_cut_model_computes_what_the_masked_model_computes(self, case):
        model = tiny.make_model(case)
        inputs = tiny.make_inputs(model)
        plan = tiny.random_plan(model, KEPT)
        cut = tiny.outputs(apply(plan, model), inputs)
        assert (cut - tiny.masked_outputs(model, plan, inputs)).abs().max() <= 1e-5
        assert (cut - tiny.outputs(model, inputs)).abs().max() > 1e-3  # the neurons mattered

    def test_keeping_all_changes_nothing(self, case):
        model = tiny.make_model(case)
        inputs = tiny.make_inputs(model)
        width = find_feedforwards(model, tiny.family_of(model))[0].width
        same = apply(tiny.random_plan(model, width), model)
        assert torch.equal(tiny.outputs(same, inputs), tiny.outputs(model, inputs))

    def test_parameters_go_by_formula(self, case):
        model = tiny.make_model(case)
        family = tiny.family_of(model)
        feedforwards = find_feedforwards(model, family)
        per_neuron = tiny.CASES[case][3]
        pruned = apply(tiny.random_plan(model, KEPT), model)
        removed = sum(ffn.width - KEPT for ffn in feedforwards)
        before, after = (sum(p.numel() for p in m.parameters()) for m in (model, pruned))
        assert before - after == removed * per_neuron
        assert measure_size(pruned, family) == predict_size(model, family, KEPT)
        assert measure_size(pruned, family).widths == (KEPT,) * len(feedforwards)

    def test_flops_by_formula_are_those_that_torch_counts(self, case):
        model = tiny.make_model(case, attention="eager")
        family = tiny.family_of(model)
        inputs = tiny.make_inputs(model, rows=1)
        length = 5 if family.kind == "vision" else 12
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            model(**inputs)
        counts = {path: sum(by_op.values()) for path, by_op in counter.get_flop_counts().items()}

        def counted(paths):
            return sum(counts.get(f"{type(model).__name__}.{path}", 0) for path in paths)

        names = {module: path for path, module in model.named_modules()}
        size = measure_size(model, family, length)
        assert counted([path for path, _ in find_layers(model, family)]) == 2 * size.model_multiply_adds
        projections = [
            names[part]
            for ffn in find_feedforwards(model, family)
            for part in (ffn.up, ffn.gate, ffn.down)
            if part is not None
        ]
        assert counted(projections) == 2 * size.ffn_multiply_adds

    def test_the_given_model_is_not_changed_by_apply(self, case):
        model = tiny.make_model(case)
        inputs = tiny.make_inputs(model)
        before = tiny.outputs(model, inputs)
        apply(tiny.random_plan(model, KEPT), model)
        assert torch.equal(tiny.outputs(model, inputs), before)

    def test_layers_of_different_widths_are_padded_with_neurons_that_do_nothing(self, case):
        model = tiny.make_model(case)
        inputs = tiny.make_inputs(model)
        plan = tiny.random_plan(model, KEPT)
        if len(plan.layers) == 1:
            pytest.skip("one shared network has one width")
        wider = tiny.random_plan(model, KEPT + 4, seed=1)
        mixed = plan.__class__("test", plan.family, 0.5, plan.weights_sha256, {}, (wider.layers[0], *plan.layers[1:]))
        pruned = apply(mixed, model)
        assert measure_size(pruned, tiny.family_of(model)).widths == (KEPT + 4,) * len(plan.layers)
        assert (tiny.outputs(pruned, inputs) - tiny.masked_outputs(model, mixed, inputs)).abs().max() <= 1e-5


READER = """
import json, sys, torch, transformers
for folder, class_name in json.load(sys.stdin):
    model = getattr(transformers, class_name).from_pretrained(folder).eval()
    inputs = torch.load(folder + "/inputs.pt")
    with torch.inference_mode():
        torch.save(model(**inputs)[0], folder + "/outputs.pt")
"""


@pytest.fixture(scope="module")
def read_back(tmp_path_factory):
    """Every family saved by Secateurs, then read and run by one fresh process with plain transformers."""
    root = tmp_path_factory.mktemp("families")
    jobs, wanted = [], {}
    for case in CASES:
        from secateurs import prune

        source = tiny.save_checkpoint(root / f"{case}-source", case)
        loaded = load_model(str(source))
        batches = [tiny.make_inputs(loaded.model, rows=8, tokens=24, seed=s) for s in range(3)]
        result = prune(str(source), keep=0.5, calibration=batches, round_to=1, kernel_rows=64)
        result.save(root / case)
        inputs = tiny.make_inputs(result.model)
        torch.save(inputs, root / case / "inputs.pt")
        wanted[case] = (result, tiny.outputs(result.model, inputs))
        jobs.append((str(root / case), type(result.model).__name__))
    subprocess.run([sys.executable, "-c", READER], input=json.dumps(jobs), text=True, check=True, capture_output=True)
    return root, wanted


@pytest.mark.parametrize("case", CASES)
def test_a_fresh_process_with_plain_transformers_gets_the_same_outputs(case, read_back):
    root, wanted = read_back
    result, expected = wanted[case]
    again = torch.load(root / case / "outputs.pt")
    assert torch.equal(again, expected)
    family = tiny.family_of(result.model)
    width = json.loads((root / case / "config.json").read_text())[family.width_key]
    assert width == result.after.widths[0] == result.before.widths[0] // 2


@pytest.mark.parametrize("case", CASES)
def test_applying_the_saved_plan_gives_the_same_bytes(case, read_back):
    from secateurs import load_plan
    from secateurs.models.loading import hash_weights

    root, wanted = read_back
    source = load_model(str(root / f"{case}-source"))
    again = apply(load_plan(root / case), source.model)
    assert hash_weights(again) == hash_weights(wanted[case][0].model)


def test_an_unknown_family_is_refused_with_the_list_of_known_ones():
    from transformers import BloomConfig, BloomForCausalLM

    model = BloomForCausalLM(BloomConfig(vocab_size=32, hidden_size=16, n_layer=1, n_head=2))
    with pytest.raises(UnsupportedModelError, match=r"'bloom'.*supported families: BERT .*ViT"):
        wrap_model(model)


def test_mixtures_of_experts_are_named_as_such():
    from transformers import MixtralConfig

    with pytest.raises(UnsupportedModelError, match="mixture of experts"):
        find_family(MixtralConfig())


def test_quantised_projections_are_refused():
    model = tiny.make_model("llama")
    model.model.layers[0].mlp.down_proj = torch.ao.nn.quantized.dynamic.Linear(24, 16)
    with pytest.raises(UnsupportedModelError, match="quantised or adapted"):
        find_feedforwards(model, tiny.family_of(model))


def test_widths_that_the_config_does_not_state_are_refused():
    model = tiny.make_model("llama")
    model.config.intermediate_size = 25
    with pytest.raises(UnsupportedModelError, match=r"has 24 neurons where config.intermediate_size says 25"):
        find_feedforwards(model, tiny.family_of(model))


def test_a_plan_is_refused_by_a_model_with_other_weights():
    plan = tiny.random_plan(tiny.make_model("llama"), KEPT)
    with pytest.raises(InputError, match="the plan was made for weights"):
        apply(plan, tiny.make_model("llama", seed=1))


def test_tied_embeddings_stay_tied():
    model = tiny.make_model("qwen2")
    pruned = apply(tiny.random_plan(model, KEPT), model)
    assert pruned.lm_head.weight is pruned.model.embed_tokens.weight


def test_matrices_are_solved_on_the_cpu_where_a_device_may_lack_float64():
    model = tiny.make_model("llama").to("meta")
    assert {ffn.solving_device.type for ffn in find_feedforwards(model, tiny.family_of(model))} == {"cpu"}
