"""Cut = masked for random tiny configurations of every family.

SECATEURS_EXAMPLES=100 pytest tests/faults/test_cut_is_masked.py tries a hundred of each.
"""

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.pytorch_utils import Conv1D

import tiny
from secateurs import apply
from secateurs.models.families import find_feedforwards
from secateurs.models.feedforward import FeedForward
from secateurs.models.loading import hash_weights
from secateurs.results import LayerPlan, PruningPlan

EXAMPLES = int(os.environ.get("SECATEURS_EXAMPLES", "10"))
TOLERANCE = 5e-5
"""Largest difference of outputs, in units of the largest output, or of 1 where that is less."""


@st.composite
def shapes(draw, case):
    """Settings of a config for any width, depth, number of heads and hidden size; all that the case has names for."""
    heads, layers, width = (draw(st.integers(1, most)) for most in (3, 3, 40))
    head_size = draw(st.sampled_from([8, 16]))
    hidden = heads * head_size
    groups = draw(st.sampled_from([count for count in (1, 2, 3) if layers % count == 0]))
    named = {
        **dict.fromkeys(("hidden_size", "dim", "n_embd", "d_model", "word_embed_proj_dim"), hidden),
        **dict.fromkeys(("num_hidden_layers", "n_layers", "n_layer", "num_layers"), layers),
        **dict.fromkeys(("num_attention_heads", "n_heads", "n_head", "num_heads"), heads),
        **dict.fromkeys(("intermediate_size", "hidden_dim", "ffn_dim", "d_ff"), width),
        "n_inner": width if width % 2 else None,  # None is four times the hidden size
        "num_key_value_heads": draw(st.sampled_from([1, heads])),
        **dict.fromkeys(("head_dim", "d_kv"), head_size),
    }
    found = {name: value for name, value in named.items() if name in tiny.CASES[case][2]}
    return {**found, "num_hidden_groups": groups} if case == "albert" else found


@st.composite
def plans(draw, model):
    """A plan that keeps any neurons, as many in every network or in each as many as it likes."""
    feedforwards = find_feedforwards(model, tiny.family_of(model))
    whole = feedforwards[0].width
    is_uniform, same = draw(st.booleans()), draw(st.integers(1, whole))
    layers = []
    for ffn in feedforwards:
        count = same if is_uniform else draw(st.integers(1, whole))
        generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 32)))
        kept = torch.randperm(whole, generator=generator)[:count].sort().values.numpy()
        layers.append(LayerPlan(ffn.path, whole, kept))
    return PruningPlan("test", model.config.model_type, 0.5, hash_weights(model), {}, tuple(layers))


@pytest.mark.parametrize("case", list(tiny.CASES))
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data(), seed=st.integers(0, 1 << 32))
def test_the_cut_model_computes_what_the_masked_one_does_and_all_else_is_as_it_was(case, data, seed):
    model = tiny.make_model(case, seed=seed, **data.draw(shapes(case)))
    plan = data.draw(plans(model))
    pruned = apply(plan, model)
    check_outputs(model, pruned, plan, tiny.make_inputs(model, seed=seed))
    check_sizes(case, model, pruned, plan)
    check_tensors(model, pruned, plan)


def check_outputs(model, pruned, plan, inputs):
    """Those of the cut model are those of the masked one."""
    wanted = tiny.masked_outputs(model, plan, inputs)
    difference = (tiny.outputs(pruned, inputs) - wanted).abs().max()
    assert difference <= TOLERANCE * max(1.0, float(wanted.abs().max()))


def check_sizes(case, model, pruned, plan):
    """The config says what width the tensors have, the widest network's, and as many parameters are gone as it says."""
    family, width = tiny.family_of(model), max(layer.width for layer in plan.layers)
    assert {ffn.width for ffn in find_feedforwards(pruned, family)} == {width}
    assert getattr(pruned.config, family.width_key) == width
    matrices, biases = divmod(tiny.CASES[case][3], tiny.HIDDEN)  # of one neuron
    hidden = find_feedforwards(model, family)[0].hidden_size
    gone = sum(layer.original_width - width for layer in plan.layers)  # one entry for what several layers share
    before, after = (sum(parameter.numel() for parameter in found.parameters()) for found in (model, pruned))
    assert before - after == gone * (matrices * hidden + biases)


def check_tensors(model, pruned, plan):
    """Kept rows and columns, and all tensors besides, have the same bytes; what pads a narrower network is 0."""
    wanted, width = dict(model.state_dict()), max(layer.width for layer in plan.layers)
    for ffn, layer in zip(find_feedforwards(model, tiny.family_of(model)), plan.layers, strict=True):
        wanted |= cut_tensors(model, ffn, torch.from_numpy(layer.kept), width)
    found = pruned.state_dict()
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert found[name].numpy().tobytes() == tensor.numpy().tobytes(), name


def cut_tensors(model, ffn: FeedForward, kept, width):
    """What is left of a network's tensors, by name, told a second time."""
    names = {module: name for name, module in model.named_modules()}
    found = {}
    for part in (ffn.up, ffn.gate):
        if part is not None:
            blocks = part.weight.T if isinstance(part, Conv1D) else part.weight
            found[f"{names[part]}.weight"] = take_rows(part, blocks.detach(), ffn, kept, width)
            if part.bias is not None:
                found[f"{names[part]}.bias"] = take_rows(part, part.bias.detach(), ffn, kept, width)
    is_conv = isinstance(ffn.down, Conv1D)
    columns = (ffn.down.weight if is_conv else ffn.down.weight.T).detach()
    left = pad(columns[kept], width)
    found[f"{names[ffn.down]}.weight"] = left if is_conv else left.T
    return found


def take_rows(part, tensor, ffn, kept, width):
    """(width, ...) the kept ones and zeros; of two blocks of each."""
    left = torch.cat([pad(block[kept], width) for block in tensor.chunk(2 if ffn.is_fused else 1)])
    return left.T if isinstance(part, Conv1D) and left.ndim == 2 else left


def pad(rows, width):
    return torch.cat([rows, rows.new_zeros(width - len(rows), *rows.shape[1:])])
