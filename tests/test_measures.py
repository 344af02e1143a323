"""The rival measures against closed forms, and against independent references pair by pair."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from scipy.special import digamma
from scipy.stats import rankdata
from sklearn.feature_selection import mutual_info_regression
from sklearn.metrics import mutual_info_score
from sklearn.preprocessing import KBinsDiscretizer

from secateurs.errors import InputError
from secateurs.information import measures
from secateurs.information.kernels import estimate_std
from secateurs.information.measures import binned, cochran_bins, hsic, ksg, pearson

CONSTANT = 4


def activations(rows=120, neurons=8, seed=0):
    """Mixed neurons: Gaussian, copies (scaled, noisy, with another sign), skewed, one constant, two with ties."""
    x = torch.randn(rows, neurons, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x[:, 1] = -3 * x[:, 0]
    x[:, 2] = x[:, 0] + 0.1 * x[:, 2]
    x[:, 3] = x[:, 3].exp()
    x[:, CONSTANT] = 7.3
    x[:, 5] = x[:, 5].relu()
    x[:, 6] = (x[:, 6] - 1.8).relu()  # active in a few rows
    return x


def untied(rows=120, neurons=6, seed=0):
    x = torch.randn(rows, neurons, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x[:, 1] = x[:, 0] ** 2 + 0.2 * x[:, 1]
    return x


def gaussian_pair(rho, rows=1000, seed=0):
    a, e = torch.randn(2, rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.stack([a, rho * a + (1 - rho**2) ** 0.5 * e], dim=1)


def neighbours(x, count=3, seed=0):
    return ksg(x, neighbours=count, seed=seed, tick=lambda done, total: None)


def widths(x, ratio=0.7):
    std = estimate_std(x)
    return torch.where(std > 0, ratio * std, torch.full_like(std, torch.inf))


def centred_alignment(x, ratio=0.7):
    return hsic(x, widths(x, ratio))


MEASURES = pytest.mark.parametrize("measure", [pearson, binned, neighbours, centred_alignment])


@MEASURES
@pytest.mark.parametrize("seed", [0, 1])
def test_the_matrix_is_float64_finite_symmetric_and_never_negative(measure, seed):
    found = measure(activations(seed=seed))
    assert (found.shape, found.dtype) == ((8, 8), torch.float64)
    assert torch.isfinite(found).all()
    assert torch.equal(found, found.T)
    assert found.min() >= 0


@MEASURES
def test_a_constant_neuron_has_nothing_with_any_neuron_and_the_others_do(measure):
    x = activations()
    x[:, 7] = 0.1 + 1e-13 * x[:, 7]  # constant but for rounding noise
    found = measure(x)
    alive = torch.tensor([k not in (CONSTANT, 7) for k in range(8)])
    assert (found[~alive] == 0).all()
    assert (found[:, ~alive] == 0).all()
    assert (found.diagonal()[alive] > 0).all()
    noise = 0.1 if measure is neighbours else 1e-12  # the noise that parts its ties depends on the columns
    assert torch.allclose(found[alive][:, alive], measure(x[:, alive]), atol=noise)


@MEASURES
def test_constant_neurons_alone_and_a_single_neuron_give_their_matrix(measure):
    assert (measure(torch.full((30, 3), 0.1, dtype=torch.float64)) == 0).all()
    assert measure(untied(rows=30, neurons=2)[:, :1]).item() > 0


@MEASURES
def test_a_copy_has_with_the_original_what_the_original_has_with_itself(measure):
    x = untied()
    x[:, 4] = x[:, 0]
    x[:, 5] = 4 - 2.5 * x[:, 0]
    found = measure(x)
    assert torch.allclose(found[0, [4, 5]], found[0, 0], rtol=1e-12)
    assert (found[0, 1:4] < 0.9 * found[0, 0]).all()


@MEASURES
def test_nothing_changes_under_shift_scale_sign_and_row_order(measure):
    x = untied()
    wanted = measure(x)
    signs = torch.tensor([1.0, -1.0] * 3, dtype=torch.float64)
    for changed in (x + 5, x * 1e-9, x * 300, x * signs, x.flip(0)):
        assert torch.allclose(measure(changed), wanted, atol=1e-9)


@MEASURES
def test_the_argument_is_left_as_it_was(measure):
    x = activations()
    before = x.clone()
    measure(x)
    assert torch.equal(x, before)


@MEASURES
def test_no_warning_leaks(measure):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        measure(activations())
    assert [str(warning.message) for warning in seen] == []


@MEASURES
def test_dependence_rises_with_correlation(measure):
    strengths = [measure(gaussian_pair(rho, rows=500))[0, 1].item() for rho in (0.0, 0.4, 0.7, 0.9, 0.99)]
    assert strengths == sorted(strengths)
    assert strengths[-1] > 3 * strengths[0]


@pytest.mark.parametrize("measure", [binned, neighbours, centred_alignment])
def test_a_dependence_without_correlation_is_seen(measure):
    a, b = torch.randn(2, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = measure(torch.stack([a, a.square(), b], dim=1))
    assert pearson(torch.stack([a, a.square()], dim=1))[0, 1] < 0.15
    assert found[0, 1] > 3 * found[0, 2]


def test_correlation_agrees_with_numpy():
    x = torch.cat([activations()[:, :CONSTANT], 1e6 + activations()[:, CONSTANT + 1 :]], dim=1)
    assert np.abs(pearson(x).numpy() - np.abs(np.corrcoef(x.numpy().T))).max() <= 1e-9
    assert (pearson(x).diagonal() == 1).all()
    assert pearson(x).max() == 1


@pytest.mark.parametrize("bins", [2, 5, 7])
def test_binned_information_agrees_with_scikit_learn_on_bins_by_ranks(bins):
    x = activations()
    ranks = np.apply_along_axis(rankdata, 0, x.numpy())
    labels = np.floor((ranks - 0.5) * bins / len(x) + 1e-9).astype(int)
    found = binned(x, bins).numpy()
    for k in range(8):
        for j in range(8):
            assert found[k, j] == pytest.approx(mutual_info_score(labels[:, k], labels[:, j]), abs=1e-12)


@pytest.mark.parametrize("bins", [2, 4, 10])
def test_without_ties_the_bins_are_those_of_scikit_learn(bins):
    x = untied()
    tool = KBinsDiscretizer(bins, encode="ordinal", strategy="quantile", quantile_method="linear", subsample=None)
    assert np.array_equal(measures._bin_numbers(x, bins).T.numpy(), tool.fit_transform(x.numpy()))


def test_a_neuron_without_ties_has_the_entropy_of_equal_bins():
    found = binned(untied(), 10)
    assert found.diagonal().numpy() == pytest.approx(np.log(10))
    assert found.max() <= np.log(10) + 1e-12


def test_bins_do_not_change_under_a_monotone_map():
    x = untied()
    assert torch.equal(binned(x.exp()), binned(x))


@pytest.mark.parametrize("active", [1, 3, 60, 117, 119])
@pytest.mark.parametrize("bins", [2, 3, 10])
def test_a_neuron_of_two_values_keeps_its_whole_entropy_however_rare_one_is(active, bins):
    x = torch.zeros(120, 1, dtype=torch.float64)
    x[:active] = 2.0
    p = active / 120
    assert binned(x, bins).item() == pytest.approx(-p * np.log(p) - (1 - p) * np.log(1 - p))


def test_zeros_of_a_relu_share_a_bin_of_their_own_where_they_are_many():
    x = untied(rows=200).relu()
    numbers = measures._bin_numbers(x, 10).T
    for k in range(6):
        assert set(numbers[x[:, k] == 0, k].tolist()).isdisjoint(numbers[x[:, k] > 0, k].tolist())


def test_independent_binned_neurons_have_the_bias_of_the_plug_in_estimate():
    x = torch.randn(1000, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean = binned(x, 10)[~torch.eye(40, dtype=torch.bool)].mean().item()
    assert mean == pytest.approx((10 - 1) ** 2 / (2 * 1000), rel=0.1)


def test_the_default_leaves_five_rows_to_a_joint_bin():
    assert [cochran_bins(rows) for rows in (1, 19, 100, 500, 1000)] == [2, 2, 4, 10, 14]
    assert torch.equal(binned(untied()), binned(untied(), cochran_bins(120)))


@pytest.mark.parametrize("block", [1, 300, 3000])
def test_binned_information_does_not_depend_on_the_block_size(monkeypatch, block):
    wanted = binned(activations(), 5)
    monkeypatch.setattr(measures, "COUNT_BLOCK", block)
    assert torch.allclose(binned(activations(), 5), wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_nearest_neighbours_find_the_information_of_gaussian_pairs(rho):
    found = np.mean([neighbours(gaussian_pair(rho, rows=2000, seed=seed))[0, 1].item() for seed in range(6)])
    assert found == pytest.approx(-0.5 * np.log(1 - rho**2), abs=0.04)


def test_nearest_neighbours_agree_with_scikit_learn_in_either_direction():
    x = untied()
    found = neighbours(x, count=4).numpy()
    for k in range(6):
        row = mutual_info_regression(x.numpy(), x[:, k].numpy(), n_neighbors=4, random_state=9)
        assert np.abs(found[k] - row).max() <= 1e-12


def test_nearest_neighbours_give_a_neuron_without_ties_a_finite_information_with_itself():
    assert neighbours(untied(), count=5).diagonal().numpy() == pytest.approx(digamma(120) - digamma(5) - 1 / 5)


def test_nearest_neighbours_depend_on_nothing_but_the_seed():
    x = activations()
    assert torch.equal(neighbours(x, seed=1), neighbours(x, seed=1))
    assert not torch.equal(neighbours(x, seed=1), neighbours(x, seed=2))  # ties are parted by noise


def test_nearest_neighbours_of_a_switch_and_its_copy_are_near_its_entropy():
    x = torch.zeros(400, 2, dtype=torch.float64)
    x[:200] = 1.0
    assert neighbours(x)[0, 1].item() == pytest.approx(np.log(2), abs=0.1)


def test_progress_counts_pairs_and_ends_at_its_total():
    seen = []
    ksg(activations(), neighbours=3, seed=0, tick=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == [7, 13, 18, 22, 25, 27, 28]
    assert {total for _, total in seen} == {28}


@pytest.mark.parametrize("rows", [2, 3, 119, 120])
@pytest.mark.parametrize("ratio", [0.01, 0.7, 16.0])
def test_hsic_agrees_with_a_loop_over_centred_grams(ratio, rows):
    x = activations()[:rows, :6]
    width = widths(x, ratio)
    found = hsic(x, width).numpy()
    centring = np.eye(rows) - 1 / rows
    grams = []
    for column, sigma in zip(x.T.numpy(), width.numpy(), strict=True):
        gram = np.exp(-((column[:, None] - column[None, :]) ** 2) / (2 * sigma**2))
        grams.append(centring @ gram @ centring)
    for k in range(6):
        for j in range(6):
            norms = np.linalg.norm(grams[k]) * np.linalg.norm(grams[j])
            wanted = np.trace(grams[k] @ grams[j]) / norms if width[[k, j]].isfinite().all() else 0
            assert found[k, j] == pytest.approx(wanted, abs=1e-10)


def test_hsic_is_within_its_bounds_and_one_on_the_diagonal():
    found = centred_alignment(untied())
    assert (found.diagonal() == 1).all()
    assert found.max() == 1


def test_hsic_of_very_wide_kernels_is_the_squared_correlation():
    x = untied()
    assert torch.allclose(centred_alignment(x, 1e5), pearson(x).square(), atol=1e-8)


def test_hsic_of_very_narrow_kernels_is_one_for_any_two_neurons():
    assert torch.allclose(centred_alignment(untied(), 1e-9), torch.ones(6, 6, dtype=torch.float64))


@pytest.mark.parametrize("count", [0, 120])
def test_a_wrong_number_of_neighbours_is_named(count):
    with pytest.raises(InputError, match=rf"neighbours must be in \[1, 120\), the number of rows, got {count}"):
        neighbours(untied(), count=count)


def test_a_wrong_number_of_bins_is_named():
    with pytest.raises(InputError, match="bins must be at least 2, got 1"):
        binned(untied(), 1)


def test_importing_the_measures_leaves_scikit_learn_alone():
    code = "import secateurs.information.measures, sys; print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
