"""The estimator against an independent loop, and against what theory says of it."""

import numpy as np
import pytest
import torch

from secateurs.errors import InputError
from secateurs.information import mutual_information
from secateurs.information.entropy import entropy_nats
from secateurs.information.kernels import estimate_std, layer_gram_entries, pair_indices, sample_pairs
from secateurs.information.widths import HALVINGS, WIDEST, align_widths

ALPHAS = (0.5, 1.0, 1.01, 2.0, 5.0)
PAIRS = pair_indices(120, torch.device("cpu"))


def activations(rows=120, neurons=8, seed=0):
    """Mixed neurons: Gaussian, copies (exact, scaled, noisy), skewed, one constant."""
    x = torch.randn(rows, neurons, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x[:, 1] = 3 * x[:, 0]
    x[:, 2] = x[:, 0] + 0.01 * x[:, 2]
    x[:, 3] = x[:, 3].exp()
    x[:, 4] = 7.5
    return x


def loop_entropy(gram, alpha):
    n = len(gram)
    values = np.clip(np.linalg.eigvalsh(gram / np.trace(gram)), 0, None)
    if alpha < 1:  # eigenvalues that are rounding noise count as 0, faded in up to twice the noise
        noise = n * np.finfo(float).eps
        values = values * np.clip(values / noise - 1, 0, 1) ** (1 / alpha)
    values = values[values > 0]
    if alpha == 1:
        return float(-(values * np.log(values)).sum())
    return float(np.log((values**alpha).sum()) / (1 - alpha))


def loop_matrix(x, width, alpha, batch):
    """The textbook formula, one pair and one batch at a time, float64."""
    x = np.asarray(x, dtype=np.float64)
    batches = [x[s : s + batch] for s in range(0, len(x) - batch + 1, batch)]
    total = np.zeros((x.shape[1], x.shape[1]))
    for rows in batches:
        grams = [
            np.exp(-((rows[:, k][:, None] - rows[:, k][None, :]) ** 2) / (2 * width[k] ** 2)) for k in range(x.shape[1])
        ]
        own = [loop_entropy(gram, alpha) for gram in grams]
        for k, gram in enumerate(grams):
            for j, other in enumerate(grams):
                total[k, j] += own[k] + own[j] - loop_entropy(gram * other, alpha)
    return total / len(batches)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("width", ["scott-scaled", "scott-layer", 0.42, 2.0, 6.0])
def test_matrix_agrees_with_an_independent_float64_loop(alpha, width):
    x = activations()
    found = mutual_information(x, alpha=alpha, width=width, batch_size=60, dtype="float64")
    wanted = loop_matrix(x, found.width, alpha, 60)
    assert np.abs(found.mi_nats - wanted).max() <= 1e-8


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("width", [0.42, 2.0, 6.0])
def test_float32_agrees_with_the_loop(alpha, width):
    x = activations()
    found = mutual_information(x, alpha=alpha, width=width, batch_size=60, dtype="float32")
    assert found.mi_nats.dtype == np.float32
    assert np.abs(found.mi_nats - loop_matrix(x, found.width, alpha, 60)).max() <= 1e-4


def test_the_product_form_equals_eigenvalues_at_alpha_two():
    x = activations()
    by_product = mutual_information(x, alpha=2, backend="product", batch_size=None)
    by_eigenvalues = mutual_information(x, alpha=2, backend="eigenvalues", batch_size=None)
    assert by_product.backend == "product"
    assert np.abs(by_product.mi_nats - by_eigenvalues.mi_nats).max() <= 1e-5


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_matrix_is_symmetric_and_within_its_bounds(alpha, seed):
    found = mutual_information(activations(seed=seed), alpha=alpha, batch_size=None, width=1.0)
    smaller = np.minimum.outer(found.entropy_nats, found.entropy_nats)
    assert (found.mi_nats == found.mi_nats.T).all()
    assert (found.mi_nats <= smaller + 1e-5).all()
    if alpha <= 1.01:
        assert found.mi_nats.min() >= -1e-5


def test_information_can_be_negative_above_alpha_one():
    # two exclusive neurons: each is active on its own third of the rows
    x = torch.zeros(90, 2, dtype=torch.float64)
    x[:30, 0], x[30:60, 1] = 1.0, 1.0
    assert mutual_information(x, alpha=5, width=0.1, batch_size=None).mi_nats[0, 1] < -0.01
    assert mutual_information(x, alpha=1.01, width=0.1, batch_size=None).mi_nats[0, 1] > 0


@pytest.mark.parametrize("alpha", ALPHAS)
def test_a_neuron_with_itself_is_twice_its_entropy_less_that_of_a_narrower_kernel(alpha):
    x = activations()
    wide = mutual_information(x, alpha=alpha, width=1.0, batch_size=None, dtype="float64")
    narrow = mutual_information(x, alpha=alpha, width=2**-0.5, batch_size=None, dtype="float64")
    expected = 2 * wide.entropy_nats - narrow.entropy_nats
    assert np.abs(np.diag(wide.mi_nats) - expected).max() <= 1e-7


@pytest.mark.parametrize("alpha", [1.01, 2.0])
def test_nothing_changes_under_sign_flips_row_order_shift_and_scale(alpha):
    x = activations()
    wanted = mutual_information(x, alpha=alpha, batch_size=60, dtype="float64").mi_nats
    signs = torch.tensor([1, -1] * 4)
    order = torch.cat([torch.randperm(60), 60 + torch.randperm(60)])
    for changed in (x * signs, x[order], x + 5.0, x * 0.01, x * 300):
        found = mutual_information(changed, alpha=alpha, batch_size=60, dtype="float64").mi_nats
        assert np.abs(found - wanted).max() <= 1e-7


@pytest.mark.parametrize("alpha", ALPHAS)
def test_a_constant_neuron_has_no_entropy_and_no_information(alpha):
    found = mutual_information(activations(), alpha=alpha, batch_size=60)
    assert found.width_over_std[4] == 0
    assert np.isinf(found.width[4])
    assert abs(found.entropy_nats[4]) <= 1e-12
    assert (found.mi_nats[4] == 0).all()
    assert (found.mi_nats[:, 4] == 0).all()


@pytest.mark.parametrize("ratio", [0.42, 1.0, 2.0, 6.0])
@pytest.mark.parametrize("alpha", [1.01, 2.0])
def test_information_rises_strictly_with_correlation(ratio, alpha):
    generator = torch.Generator().manual_seed(3)
    a, e = torch.randn(2, 400, generator=generator, dtype=torch.float64)
    strengths = torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.99])
    x = torch.stack([a, *(rho * a + (1 - rho**2) ** 0.5 * e for rho in strengths)], dim=1)
    with_first = mutual_information(x, alpha=alpha, width=ratio, batch_size=None).mi_nats[0, 1:]
    assert (np.diff(with_first) > 0).all()
    negative = torch.stack([a, *(-rho * a + (1 - rho**2) ** 0.5 * e for rho in strengths)], dim=1)
    with_first = mutual_information(negative, alpha=alpha, width=ratio, batch_size=None).mi_nats[0, 1:]
    assert (np.diff(with_first) > 0).all()


def test_aligned_width_is_the_best_of_a_fine_grid():
    x = activations(neurons=12)
    std = estimate_std(x)
    layer = layer_gram_entries(x, PAIRS, gamma=1.0, scaled=True)
    found = align_widths(x, std, PAIRS, layer)

    def alignment(ratio, k):
        z = x[:, k] / std[k] / ratio
        gram = torch.exp(-0.5 * (z[:, None] - z[None, :]).square())
        whole = torch.eye(len(x), dtype=x.dtype)
        i, j = torch.triu_indices(len(x), len(x), 1)
        whole[i, j] = whole[j, i] = layer
        return float((whole * gram).sum() / gram.norm())

    grid = WIDEST * 2.0 ** -np.linspace(0, HALVINGS / 2, 600)
    for k in (k for k in range(12) if k != 4):
        best = max(alignment(r, k) for r in grid)
        assert alignment(float(found[k]), k) >= best - 1e-6 * abs(best)


def test_widths_hardly_depend_on_the_block_size(monkeypatch):
    x = activations(neurons=12)
    layer = layer_gram_entries(x, PAIRS, gamma=1.0, scaled=True)
    wanted = align_widths(x, estimate_std(x), PAIRS, layer)
    monkeypatch.setattr("secateurs.information.widths.BLOCK_BYTES", 1)
    assert torch.allclose(align_widths(x, estimate_std(x), PAIRS, layer), wanted, rtol=1e-9, atol=0)


def test_running_mean_of_widths_follows_equation_8():
    x = activations()
    both = mutual_information(x, batch_size=60, beta=0.5, dtype="float64")
    pairs, std = pair_indices(60, x.device), estimate_std(x)
    first, second = (
        align_widths(rows, std, pairs, layer_gram_entries(rows, pairs, gamma=1.0, scaled=True)).numpy()
        for rows in (x[:60], x[60:])
    )
    assert np.allclose(both.width_over_std, 0.5 * first + 0.5 * second, atol=1e-12)


def test_widths_aligned_on_a_sample_of_row_pairs_are_near_those_of_all_pairs():
    x = activations(rows=400, neurons=12)
    std = estimate_std(x)
    widths = []
    for pairs in (pair_indices(400, x.device), sample_pairs(400, x.device)):
        layer = layer_gram_entries(x, pairs, gamma=1.0, scaled=True)
        widths.append(align_widths(x, std, pairs, layer))
    assert (widths[1] / widths[0] - 1).nan_to_num().abs().max() < 0.03


def test_sampled_pairs_are_distinct_and_take_each_row_equally_often():
    first, second = sample_pairs(1001, torch.device("cpu"))
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    assert len((low * 1001 + high).unique()) == len(first)
    assert 30_000 < len(first) <= 32_768
    assert torch.cat([first, second]).bincount().unique().numel() == 1
    assert (low < high).all()


def test_literal_scott_widths_saturate_on_high_dimensional_rows_and_scaled_ones_do_not():
    x = 20 * torch.randn(100, 300, generator=torch.Generator().manual_seed(0))
    assert mutual_information(x, alpha=2, width="scott", batch_size=None).saturated
    assert not mutual_information(x, alpha=2, batch_size=None).saturated


def test_the_shuffled_baseline_is_subtracted_and_takes_independent_neurons_to_zero():
    x = torch.randn(100, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, 1] = x[:, 0]
    raw = mutual_information(x, width=0.42, batch_size=None)
    clean = mutual_information(x, width=0.42, batch_size=None, debias=4)
    assert raw.baseline is None
    assert np.allclose(clean.mi_nats + clean.baseline, raw.mi_nats, atol=1e-5)
    off = ~np.eye(6, dtype=bool)
    off[0, 1] = off[1, 0] = False
    assert raw.mi_nats[off].min() > 0.15  # independent, yet seen as dependent
    assert np.abs(clean.mi_nats[off]).max() < 0.08
    assert clean.mi_nats[0, 1] > 1


def test_short_last_batch_is_dropped_and_few_rows_make_one_batch():
    x = activations(rows=150)
    assert mutual_information(x, width=1.0, batch_size=100).kernels == 1
    few = mutual_information(x[:40], width=1.0, batch_size=100)
    assert (few.kernels, few.rows_per_kernel) == (1, 40)


def test_an_array_gives_each_neuron_its_own_ratio():
    x = activations()
    ratios = np.linspace(0.5, 4, 8)
    found = mutual_information(x, width=ratios, batch_size=None)
    assert np.allclose(np.delete(found.width_over_std, 4), np.delete(ratios, 4))
    assert np.allclose(np.delete(found.width, 4), np.delete(ratios * estimate_std(x).numpy(), 4))


def test_progress_ends_at_its_total():
    seen = []
    mutual_information(activations(), batch_size=60, debias=1, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_von_neumann_is_the_limit_at_alpha_one():
    gram = torch.exp(-torch.cdist(*2 * [torch.randn(30, 1, dtype=torch.float64)]).square())
    middle = entropy_nats(gram, 1.0)
    assert abs(entropy_nats(gram, 1 - 1e-6) - middle) < 1e-5
    assert abs(entropy_nats(gram, 1 + 1e-6) - middle) < 1e-5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"measure": "renyy"}, "did you mean 'renyi'"),
        ({"width": "scot"}, "unknown width rule 'scot'"),
        ({"width": -1.0}, "width must be finite and above 0"),
        ({"width": np.ones(3)}, "array of shape (8,), got shape (3,)"),
        ({"alpha": 0}, "alpha must be above 0, got 0"),
        ({"beta": 1.0}, "beta must be in [0, 1), got 1.0"),
        ({"backend": "product"}, "needs alpha = 2"),
        ({"backend": "cuda"}, "unknown backend 'cuda'"),
        ({"dtype": "float16"}, "unknown dtype 'float16'"),
        ({"backend": "torch", "dtype": "float64"}, "works in float32 only; for float64 use native or eigenvalues"),
        ({"backend": "torch", "alpha": 0.5}, "backend 'torch' needs alpha of at least 1, got 0.5"),
        ({"measure": "ksg", "debias": 1}, "debias works with measure 'renyi' only"),
        ({"measure": "binned", "bins": 1}, "bins must be at least 2, got 1"),
        ({"measure": "ksg", "neighbours": 0}, "neighbours must be in [1, 120)"),
        ({"debias": -1}, "debias must be"),
        ({"debias": 1.5}, "debias must be a whole number of at least 0, got 1.5"),
        ({"threads": 0}, "threads must be a whole number of at least 1, got 0"),
    ],
)
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(InputError) as error:
        mutual_information(activations(), **settings)
    assert message in str(error.value)


def test_activations_that_are_not_finite_or_not_a_matrix_are_refused():
    x = activations()
    x[3, 3] = float("nan")
    with pytest.raises(InputError, match="must be finite"):
        mutual_information(x)
    with pytest.raises(InputError, match="must have shape"):
        mutual_information(torch.zeros(5))
    with pytest.raises(InputError, match="matrix of numbers"):
        mutual_information([[1, 2], [3, "a"]])
    with pytest.raises(InputError, match="at least 2 rows"):
        mutual_information(torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("x", "settings", "message"),
    [
        (np.zeros((0, 3)), {}, "x must have shape"),
        (np.zeros((9, 0)), {}, "x must have shape"),
        (np.zeros((9, 3)), {"batch_size": 2.5}, "batch_size must be a whole number or None, got 2.5"),
        (np.zeros((9, 3)), {"batch_size": True}, "batch_size must be a whole number or None, got True"),
    ],
)
def test_what_is_no_matrix_of_rows_is_told(x, settings, message):
    with pytest.raises(InputError, match=message):
        mutual_information(x, **settings)
