import numpy as np
import pytest
import torch

from secateurs.refit import LEAST_HOLD, Drift, refit_down, relative_output_error


def layer(rows=400, neurons=12, outputs=5, seed=0, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, neurons, generator=generator, dtype=torch.float64) + offset
    z[:, 1] = 0.5 * z[:, 0] + 0.1 * z[:, 1]
    return z, torch.randn(neurons, outputs, generator=generator, dtype=torch.float64)


KEPT = np.array([0, 2, 3, 5, 7, 8])


@pytest.mark.parametrize("is_isotropic", [False, True])
def test_refit_solves_the_ridge_problem(is_isotropic):
    z, w = layer()
    z[:, 3] *= 10
    moments = z.T @ z / len(z)
    found = refit_down(moments, w, KEPT, ridge=0.03, is_isotropic=is_isotropic).weight.double()
    own = moments.diagonal()
    hold = (0.03 * own.mean() if is_isotropic else 0.03 * own[KEPT] + LEAST_HOLD * own.mean()) * len(z)
    root = (hold * torch.ones(len(KEPT), dtype=torch.float64)).sqrt()
    design = torch.cat([z[:, KEPT], torch.diag(root)])
    target = torch.cat([z @ w, root[:, None] * w[KEPT]])
    wanted = torch.linalg.lstsq(design, target).solution
    assert torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("is_isotropic", [False, True])
def test_a_network_that_never_fires_keeps_its_columns(is_isotropic):
    w = layer()[1]
    silent = torch.zeros(12, 12, dtype=torch.float64)
    assert torch.equal(refit_down(silent, w, KEPT, ridge=0.01, is_isotropic=is_isotropic).weight, w[KEPT].float())


def test_with_a_bias_it_is_least_squares_with_an_intercept():
    z, w = layer(offset=2.0)
    bias = torch.arange(5.0, dtype=torch.float64)
    update = refit_down(z.T @ z / len(z), w, KEPT, ridge=1e-10, mean=z.mean(dim=0), bias=bias)
    design = torch.cat([z[:, KEPT], torch.ones(len(z), 1, dtype=torch.float64)], dim=1)
    wanted = torch.linalg.lstsq(design, z @ w + bias).solution
    assert torch.allclose(update.weight.double(), wanted[:-1], atol=1e-4)
    assert torch.allclose(update.bias.double(), wanted[-1], atol=1e-4)


def test_what_the_kept_neurons_carry_is_folded_back_whole():
    z, w = layer()
    z[:, 9] = 2 * z[:, 0] - z[:, 3]
    kept = np.array([k for k in range(12) if k != 9])
    update = refit_down(z.T @ z / len(z), w, kept, ridge=1e-12)
    assert torch.allclose(z[:, kept] @ update.weight.double(), z @ w, atol=1e-4)


def test_a_strong_ridge_leaves_the_weights_and_a_full_width_changes_nothing():
    z, w = layer()
    moments = z.T @ z / len(z)
    assert torch.allclose(refit_down(moments, w, KEPT, ridge=1e9).weight.double(), w[KEPT], atol=1e-5)
    whole = refit_down(moments, w, np.arange(12), ridge=0.03)
    assert torch.equal(whole.weight, w.float())


def test_dead_neurons_do_not_upset_it():
    z, w = layer()
    z[:, [0, 5]] = 0
    update = refit_down(z.T @ z / len(z), w, KEPT, ridge=0.03)
    assert torch.isfinite(update.weight).all()
    silent = refit_down(torch.zeros(12, 12, dtype=torch.float64), w, KEPT, ridge=0.03)
    assert torch.allclose(silent.weight.double(), w[KEPT], atol=1e-6)


def test_relative_error_is_that_of_the_outputs_and_falls_with_the_refit():
    z, w = layer()
    moments = z.T @ z / len(z)
    update = refit_down(moments, w, KEPT, ridge=1e-6)
    whole = (z @ w).square().sum()
    cut = float((z @ w - z[:, KEPT] @ w[KEPT]).square().sum() / whole)
    refit = float((z @ w - z[:, KEPT] @ update.weight.double()).square().sum() / whole)
    mean = z.mean(dim=0)
    assert abs(relative_output_error(moments, w, KEPT, mean=mean) - cut) < 1e-9
    assert abs(relative_output_error(moments, w, KEPT, update, mean=mean) - refit) < 1e-6
    assert refit < cut


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("is_refitted", [False, True])
def test_relative_error_counts_what_was_lacking_before(has_bias, is_refitted):
    z, w = layer(offset=1.0)
    d = 0.3 * z[:, :1] + torch.randn(len(z), 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5
    moments, mean = z.T @ z / len(z), z.mean(dim=0)
    drift = Drift(z.T @ d / len(z), d.mean(dim=0), float(d.square().sum(dim=1).mean()))
    bias = torch.zeros(5, dtype=torch.float64) if has_bias else None
    update = refit_down(moments, w, KEPT, ridge=0.1, mean=mean, bias=bias, drift=drift, dtype=torch.float64)
    left = z @ w + d - z[:, KEPT] @ (update.weight if is_refitted else w[KEPT])
    if is_refitted and has_bias:
        left = left - update.bias
    wanted = left.square().sum() / (z @ w + d).square().sum()
    found = relative_output_error(moments, w, KEPT, update if is_refitted else None, mean=mean, drift=drift)
    assert found == pytest.approx(float(wanted), rel=1e-6)


def test_relative_error_with_a_bias_counts_what_the_bias_makes_up_for():
    z, w = layer(offset=2.0)
    moments, mean, bias = z.T @ z / len(z), z.mean(dim=0), torch.ones(5, dtype=torch.float64)
    update = refit_down(moments, w, KEPT, ridge=0.1, mean=mean, bias=bias)
    new = z[:, KEPT] @ update.weight.double() + update.bias.double()
    wanted = float((z @ w + bias - new).square().sum() / (z @ w).square().sum())
    assert abs(relative_output_error(moments, w, KEPT, update, mean=mean) - wanted) < 1e-6
