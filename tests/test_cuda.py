"""What the CPU finds, a GPU finds too."""

from functools import cache

import numpy as np
import pytest
import torch

import secateurs
import tiny
from secateurs.cli import run
from secateurs.information import mutual_information
from secateurs.methods import METHODS
from secateurs.methods.secateurs import measure_profiles
from secateurs.models.loading import wrap_model
from secateurs.pipeline import open_context
from secateurs.recipe import make_recipe

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA")

FAST = {"keep": 0.5, "round_to": 1, "kernel_rows": 64, "seeds": 1}
SETTINGS = {
    "in turn": {},
    "at once": {"in_turn": False},
    "not refitted": {"refit": False},
    "one budget": {"allocation": "global"},
    "one budget, at once": {"allocation": "global", "in_turn": False},
    "plain importance": {"information": False},
}
DECIDED_BY_ROUNDING = ("paper", "paper-scaled", "clusters")
"""Hundreds of iterations from random starts end elsewhere, on the CPU too when torch computes them, not the kernel."""


def make_rows(model):
    """Random batches, labelled where the model is a classifier."""
    random, found = torch.Generator().manual_seed(0), []
    for seed in range(8):
        batch = tiny.make_inputs(model, rows=3, tokens=12, seed=seed)
        labels = (
            {"labels": torch.randint(0, 2, (3,), generator=random)} if "Classification" in type(model).__name__ else {}
        )
        found.append({**batch, **labels})
    return found


@cache
def prune(case, device, **settings):
    model = tiny.make_model(case).to(device)
    return secateurs.prune(
        model, tokenizer=tiny.make_tokenizer(), calibration=make_rows(tiny.make_model(case)), **{**FAST, **settings}
    )


def check_same(case, **settings):
    """The plan is the same on both devices, unless rounding decides it, and the pruned models compute the same."""
    there, here = (prune(case, device, **settings) for device in (DEVICE, "cpu"))
    is_same = settings.get("method") not in DECIDED_BY_ROUNDING
    for layer, wanted in zip(there.plan.layers, here.plan.layers, strict=True):
        assert layer.width == wanted.width
        if is_same:
            assert layer.kept.tolist() == wanted.kept.tolist()
        if is_same and wanted.update is not None:
            assert torch.allclose(layer.update.weight, wanted.update.weight, rtol=1e-2, atol=1e-3)
    expected = here.model if is_same else secateurs.apply(there.plan, tiny.make_model(case))
    inputs = tiny.make_inputs(expected, seed=99)
    on_device = {name: value.to(DEVICE) for name, value in inputs.items()}
    assert next(there.model.parameters()).device.type == DEVICE
    assert torch.allclose(
        tiny.outputs(there.model, on_device).cpu(), tiny.outputs(expected, inputs), rtol=1e-2, atol=1e-2
    )


@pytest.mark.parametrize("case", tiny.CASES)
def test_every_family(case):
    check_same(case)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("case", ["llama", "bert"])
def test_every_setting_of_the_default_method(case, settings):
    check_same(case, **settings)


@pytest.mark.parametrize("refit", [False, True])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method(name, refit):
    check_same("bert", method=name, refit=refit)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_on_a_language_model(name):
    check_same("llama", method=name, refit=False)


@pytest.mark.parametrize(
    ("measure", "settings"),
    [
        ("renyi", {"alpha": 1.01}),
        ("renyi", {"alpha": 2.0}),
        ("renyi", {"alpha": 0.5}),
        ("renyi", {"alpha": 2.0, "backend": "torch"}),
        ("renyi", {"alpha": 1.01, "dtype": "float64"}),
        ("renyi", {"alpha": 1.01, "debias": 2}),
        ("hsic", {}),
        ("pearson", {}),
        ("binned", {}),
        ("ksg", {}),
    ],
)
def test_every_measure_of_information(measure, settings):
    rows = torch.randn(80, 12, generator=torch.Generator().manual_seed(0))
    rows[:, 6:] = rows[:, :6] + 0.3 * rows[:, 6:]
    there, here = (mutual_information(x, measure=measure, **settings) for x in (rows.to(DEVICE), rows))
    assert np.abs(there.values - here.values).max() <= (1e-9 if settings.get("dtype") == "float64" else 1e-3)


def test_what_a_network_is_worth():
    model = tiny.make_model("llama")
    profiles = []
    for device in (DEVICE, "cpu"):
        loaded = wrap_model(tiny.make_model("llama").to(device), tiny.make_tokenizer())
        profiles.append(measure_profiles(open_context(loaded, make_rows(model), make_recipe(FAST))))
    for there, here in zip(*profiles, strict=True):
        assert np.allclose(there.costs, here.costs, rtol=1e-2)


def test_commands(checkpoint, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 200)
    reading = ["--keep", "0.5", "--calibration-tokens", "600", "--device", DEVICE]
    scoring = ["--text", str(text), "--tokens", "500"]
    pruned, compared = str(tmp_path / "pruned"), str(tmp_path / "compared")
    for words in (
        ["prune", str(checkpoint), pruned, *reading, "--round-to", "1", "--max-length", "64"],
        ["evaluate", pruned, *scoring, "--against", str(checkpoint), "--device", DEVICE],
        ["compare", str(checkpoint), *reading, *scoring, "--methods", "secateurs,flap,osscar", "--out", compared],
    ):
        assert run(words) == 0, capsys.readouterr().err
