"""Information does something: copies planted in a layer of a real language model are found."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from secateurs.errors import InputError
from secateurs.methods import METHODS
from secateurs.models.loading import load_model
from secateurs.pipeline import open_context
from secateurs.recipe import make_recipe
from secateurs.selection.ranking import select_top

LAYER, ORIGINALS, KINDS = 15, 50, 3
SETTINGS = {"keep": 0.6, "round_to": 1, "layers": str(LAYER), "calibration_tokens": 4096}


@pytest.fixture(scope="module")
def planted():
    """SmolLM2 whose 150 least important neurons of a layer became copies of the 50 most important ones.

    Each of these has an exact copy, one of half its activation, and one with 1 % noise on its weights.
    """
    try:
        loaded = load_model("smollm2")
    except InputError as error:
        pytest.skip(f"needs the demo model: {error}")
    importance = open_context(loaded, None, make_recipe(SETTINGS)).importance(0)
    order = np.argsort(-importance)
    groups = [[int(original)] for original in order[:ORIGINALS]]
    places = iter(order[::-1].tolist())
    generator = torch.Generator().manual_seed(0)
    mlp = loaded.model.model.layers[LAYER].mlp
    with torch.no_grad():
        for kind in range(KINDS):
            for group in groups:
                original, copy = group[0], next(places)
                group.append(copy)
                for part in (mlp.gate_proj, mlp.up_proj):
                    row = part.weight[original].float()
                    noise = 0.01 * row.std() * torch.randn(row.shape, generator=generator)
                    part.weight[copy] = (row + noise if kind == 2 else row).to(part.weight.dtype)
                if kind == 1:
                    mlp.up_proj.weight[copy] *= 0.5
                mlp.down_proj.weight[:, copy] = mlp.down_proj.weight[:, original]
    return open_context(loaded, None, make_recipe(SETTINGS)), groups


def share_of_copies_removed(kept, groups):
    """Share of copies gone; a group that keeps any one member, original or copy, has lost all its copies."""
    left = sum(max(0, len(set(group) & set(kept.tolist())) - 1) for group in groups)
    return 1 - left / (KINDS * len(groups))


def plant_in_minilm(minilm):
    """MiniLM whose 120 least important neurons of layer 2 became exact copies of its 40 most important ones."""
    loaded = replace(minilm, model=copy.deepcopy(minilm.model))
    settings = {"layers": "2", "round_to": 1, "keep": (1536 - 120) / 1536, "kernel_width": "scott-scaled"}
    context = open_context(loaded, None, make_recipe(settings))
    order = np.argsort(-context.importance(0))
    groups = [[int(original)] for original in order[:40]]
    places, ffn = iter(order[::-1].tolist()), context.feedforwards[0]
    with torch.no_grad():
        for group in groups * 3:
            place = next(places)
            ffn.up.weight[place], ffn.up.bias[place] = ffn.up.weight[group[0]], ffn.up.bias[group[0]]
            group.append(place)
    return loaded, settings, groups


def share_with_one(kept, groups):
    """Share of the groups of which exactly one member was kept."""
    return np.mean([len(set(group) & set(kept.tolist())) == 1 for group in groups])


def test_clusters_keep_one_of_each_group_of_copies_and_random_does_not(minilm):
    loaded, settings, groups = plant_in_minilm(minilm)
    (layer,) = METHODS["clusters"].plan(open_context(loaded, None, make_recipe({**settings, "method": "clusters"})))
    assert layer.width == 1536 - 120
    assert share_with_one(layer.kept, groups) >= 0.95
    generator = np.random.default_rng(0)
    chance = [share_with_one(generator.permutation(1536)[: layer.width], groups) for _ in range(500)]
    random = open_context(loaded, None, make_recipe({**settings, "method": "random"}))
    drawn = share_with_one(METHODS["random"].plan(random)[0].kept, groups)
    assert abs(drawn - np.mean(chance)) <= 3 * np.std(chance)


@pytest.mark.parametrize("method", ["secateurs", "redundancy", "medoids"])
def test_information_removes_the_copies_and_loses_no_group_whole(planted, method):
    context, groups = planted
    (layer,) = METHODS[method].plan(context)
    assert share_of_copies_removed(layer.kept, groups) >= 0.95
    assert all(set(group) & set(layer.kept.tolist()) for group in groups)


def test_plain_importance_removes_fewer_copies_than_chance(planted):
    context, groups = planted
    kept = select_top(context.importance(0), context.width)
    generator = np.random.default_rng(0)
    chance = [share_of_copies_removed(generator.permutation(1536)[: context.width], groups) for _ in range(200)]
    assert share_of_copies_removed(kept, groups) < np.mean(chance)
