"""Every back end, and every instruction set of the compiled one, against float64 eigenvalues and against theory."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateurs.errors import InputError
from secateurs.information import mutual_information
from secateurs.information.backends import BACKENDS, choose_backend, find_instruction_sets, native
from secateurs.information.backends.contract import LOW_RANK_SHIFT, Path
from secateurs.information.backends.eigenvalues import joint_by_eigenvalues
from secateurs.information.backends.khatri_rao import _trace_of_fit, joint_by_khatri_rao
from secateurs.information.entropy import entropy_nats, loss_of_spectrum
from secateurs.information.exact import exact_entropy
from secateurs.information.features import MOST_FEATURES, factor_grams
from secateurs.information.kernels import estimate_std, neuron_grams, packed_grams
from secateurs.information.matrix import BLOCK, allocate, plan_blocks
from secateurs.information.neurons import prepare_neurons
from secateurs.information.rational import FLOOR, entropy_loss, fit_entropy

CPU = torch.device("cpu")
ALPHAS = (0.5, 1.0, 1.01, 2.0, 5.0)
compiled = pytest.mark.skipif(not find_instruction_sets(), reason="the kernel was not compiled")
SERVING = [
    (precision, name)
    for precision, backends in BACKENDS.items()
    for name in backends
    if name != "native" or find_instruction_sets()
]


def activations(rows, neurons, seed):
    """Gaussian, rectified, skewed and rare neurons; neuron 1 copies neuron 0, neuron 2 is constant, 3 a noisy copy."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, neurons, generator=generator, dtype=torch.float64)
    for k in range(4, neurons):
        kind = (k + seed) % 4
        if kind == 1:
            x[:, k].relu_()
        elif kind == 2:
            x[:, k].mul_(2).exp_()
        elif kind == 3:
            x[:, k] = (x[:, k] > 1).double() * x[:, k]
    x[:, 1] = -2 * x[:, 0]
    x[:, 2] = 3.25
    x[:, 3] = x[:, 0] + 0.05 * x[:, 3]
    return x


def measure(x, precision, name, **settings):
    return mutual_information(x, backend=name, dtype=precision, batch_size=None, **settings)


cases = st.fixed_dictionaries(
    {
        "rows": st.integers(8, 200),
        "seed": st.integers(0, 10_000),
        "alpha": st.sampled_from(ALPHAS),
        "width": st.one_of(
            st.floats(0.05, 16), st.sampled_from([0.42, 1.0, 6.0]), st.sampled_from(["scott", "scott-scaled"])
        ),
    }
)


@pytest.mark.parametrize(("precision", "name"), SERVING)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(case=cases)
def test_every_identity_holds_on_every_back_end(precision, name, case):
    rows, seed, alpha, width = case["rows"], case["seed"], case["alpha"], case["width"]
    if BACKENDS[precision][name].refuses(alpha, CPU):
        return
    x = activations(rows, 18 if rows < 40 else 6, seed)
    found = measure(x, precision, name, alpha=alpha, width=width)
    truth = measure(x, "float64", "eigenvalues", alpha=alpha, width=found.width_over_std.clip(1e-3))
    mi, entropy = found.mi_nats, found.entropy_nats
    error = np.abs(mi - truth.mi_nats)
    assert (mi == mi.T).all()
    assert (error <= found.error_bound_nats[:, None]).all()  # the bound holds the truth
    assert error.max() <= 1e-4
    assert np.median(found.error_bound_nats) <= 1e-4
    assert (mi <= np.minimum.outer(entropy, entropy) + 1e-4).all()
    assert entropy.min() >= 0
    assert entropy.max() <= np.log(rows) + 1e-5
    if alpha <= 1.01:
        assert mi.min() >= -1e-4
    assert abs(entropy[2]) <= 1e-9
    assert (mi[2] == 0).all()
    assert abs(mi[0, 1] - mi[0, 0]) <= 1e-4  # a copy is as good as the neuron itself
    assert found.backend == name
    assert abs(sum(found.path_share.values()) - 1) < 1e-12


@pytest.mark.parametrize(("precision", "name"), SERVING)
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("width", [0.42, 1.0, 6.0])
def test_a_neuron_with_itself_is_twice_its_entropy_less_that_of_a_narrower_kernel(precision, name, alpha, width):
    if BACKENDS[precision][name].refuses(alpha, CPU):
        return
    x = activations(60, 8, 3)
    wide = measure(x, precision, name, alpha=alpha, width=width)
    narrow = measure(x, precision, name, alpha=alpha, width=width * 2**-0.5)
    assert np.abs(np.diag(wide.mi_nats) - 2 * wide.entropy_nats + narrow.entropy_nats).max() <= 1e-4


@pytest.mark.parametrize(("precision", "name"), SERVING)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_nothing_changes_under_sign_flips_row_order_shift_and_scale(precision, name, alpha):
    if BACKENDS[precision][name].refuses(alpha, CPU):
        return
    x = activations(60, 20, 1)
    wanted = measure(x, precision, name, alpha=alpha, width=1.0).mi_nats
    for changed in (-x, x[torch.randperm(60)], x + 5.0, x * 0.01, x * 300):
        assert np.abs(measure(changed, precision, name, alpha=alpha, width=1.0).mi_nats - wanted).max() <= 5e-5


@pytest.mark.parametrize(("precision", "name"), SERVING)
def test_narrow_kernels_on_distinct_rows_reach_log_n_and_wide_ones_nothing(precision, name):
    alpha = 2.0 if name == "product" else 1.01
    x = torch.arange(50, dtype=torch.float64)[:, None] * torch.tensor([1.0, -3.0], dtype=torch.float64)
    narrow = measure(x, precision, name, alpha=alpha, width=0.005)
    assert np.abs(narrow.mi_nats - np.log(50)).max() <= 1e-4
    assert np.abs(narrow.entropy_nats - np.log(50)).max() <= 1e-6
    assert np.abs(measure(x, precision, name, alpha=alpha, width=1e4).mi_nats).max() <= 1e-4


@pytest.mark.parametrize(("precision", "name"), SERVING)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_are_refused(precision, name, bad):
    x = activations(20, 6, 0)
    x[3, 4] = bad
    with pytest.raises(InputError, match="must be finite"):
        measure(x, precision, name, alpha=2.0 if name == "product" else 1.01)


def blocks(rows=70, neurons=37, width=1.0, alpha=1.01):
    x = activations(rows, neurons, 2)
    std = estimate_std(x)
    sigma = torch.where(std > 0, width * std, torch.inf)
    whole = prepare_neurons(x, sigma, alpha, with_features=True)
    whole = whole.select(whole.features.rank.argsort(stable=True))
    return whole.select(slice(0, 20)), whole.select(slice(20, None))


@compiled
@pytest.mark.parametrize("isa", find_instruction_sets())
@pytest.mark.parametrize("width", [6.0, 1.0, 0.3])
@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.01, 1.5, 2.0, 5.0])
def test_every_instruction_set_is_within_its_bound(isa, width, alpha):
    for a, b, triangle in (
        (*blocks(width=width, alpha=alpha), False),
        (*[blocks(width=width, alpha=alpha)[1]] * 2, True),
    ):
        found = native.joint_by_kernel(a, b, alpha, triangle, isa)
        truth = joint_by_eigenvalues(a, b, alpha, triangle)
        off = (found.entropy_nats - truth.entropy_nats).abs()
        within = off <= found.bound_nats
        assert bool((within if not triangle else within | ~torch.ones_like(within).triu()).all())


@compiled
@pytest.mark.parametrize("isa", find_instruction_sets())
def test_rows_that_are_hardly_coupled_cost_no_digits(isa):
    """Very narrow kernels: the squares of some entries are too small for float32."""
    x = activations(14, 8, 470757)[:, [5, 6]]
    a, b = (prepare_neurons(x, r * estimate_std(x), 2.0, with_features=True) for r in (0.03125, 1.1974906))
    found = native.joint_by_kernel(a, b, 2.0, False, isa)
    off = (found.entropy_nats - joint_by_eigenvalues(a, b, 2.0, False).entropy_nats).abs()
    assert bool((off <= found.bound_nats).all())


@compiled
def test_threads_and_blocks_change_no_bit(monkeypatch):
    x = activations(60, 90, 5)
    wanted = mutual_information(x, width=1.0, backend="native", threads=1).values
    assert (mutual_information(x, width=1.0, backend="native", threads=3).values == wanted).all()
    monkeypatch.setattr("secateurs.information.matrix.BLOCK", 32)
    assert (mutual_information(x, width=1.0, backend="native").values == wanted).all()


@compiled
def test_wide_kernels_go_by_low_rank_narrow_ones_by_whole_grams_and_noisy_ones_by_float64(monkeypatch):
    x = activations(100, 20, 7)[:, 4:]
    assert mutual_information(x, width=6.0, backend="native").path_share["low rank"] == 1
    assert mutual_information(x, width=0.3, backend="native").path_share["full"] > 0.9
    # without low rank, and with a shift that noise exceeds, float32 can't resolve the zeros of wide kernels
    monkeypatch.setattr(native, "find_most_features", lambda rows: 1)
    monkeypatch.setattr(native, "WHOLE_SHIFT", 1e-7)
    found = mutual_information(x, width=4.0, backend="native")
    truth = mutual_information(x, width=4.0, backend="eigenvalues")
    assert found.path_share["float64"] > 0.1
    assert (np.abs(found.values - truth.values) <= found.error_bound_nats[:, None]).all()


@compiled
def test_the_kernel_leaves_the_rounding_mode_of_its_caller_alone():
    tiny = np.float32(1e-39)
    mutual_information(activations(30, 8, 0), width=0.05, backend="native", threads=1)
    assert tiny * np.float32(0.5) > 0


@compiled
def test_the_kernel_refuses_arrays_of_the_wrong_shape():
    grams = packed_grams(torch.randn(4, 10), torch.float32).numpy()
    fit = fit_entropy(1.01, 1e-7)
    given_ = {"triangle": False, "shifts": fit.shifts, "coefficients": fit.coefficients, "threads": 1}
    results = {"loss": np.zeros((4, 4)), "status": np.zeros((4, 4), np.uint8)}
    with pytest.raises(ValueError, match="Gram matrices"):
        native._kernel.full(grams, grams, rows=11, **given_, **results)
    with pytest.raises(ValueError, match="results"):
        native._kernel.full(grams, grams[:3], rows=10, **given_, **results)
    with pytest.raises(ValueError, match="no instruction set 'mmx'"):
        native._kernel.full(grams, grams, rows=10, isa="mmx", **given_, **results)


@pytest.mark.parametrize("alpha", [1.0, 1.01, 2.0])
def test_cholesky_factors_give_the_trace_of_f_that_eigenvalues_give(alpha):
    """The way of CUDA."""
    features = activations(100, 12, 0) * torch.logspace(0, -3, 12, dtype=torch.float64)
    gram = (features.mT @ features / features.square().sum()).expand(3, -1, -1)
    fit = fit_entropy(alpha, LOW_RANK_SHIFT)
    truth = loss_of_spectrum(torch.linalg.eigvalsh(gram).clamp_(min=0), alpha)
    assert (_trace_of_fit(gram, fit) - truth).abs().max() <= fit.trace_error(12)


@pytest.mark.parametrize("alpha", [1.0, 1.01, 5.0])
def test_khatri_rao_leaves_to_the_solver_only_what_needs_whole_grams(alpha):
    a, b = blocks(width=6.0, alpha=alpha)
    asked = []

    def solve(a, b, pairs, alpha):
        asked.append(len(pairs))
        return torch.zeros(len(pairs), dtype=torch.float64)

    assert bool((joint_by_khatri_rao(a, b, alpha, False, solve).path == Path.LOW_RANK).all())
    assert not asked
    a, b = blocks(width=0.2, alpha=alpha)
    joint_by_khatri_rao(a, b, alpha, False, solve)
    assert asked[0] > 0.8 * len(a) * len(b)


def test_auto_takes_the_fastest_back_end_that_can_serve():
    fast = "native" if find_instruction_sets() else "torch"
    assert choose_backend("auto", "float32", 2.0, CPU).name == "product"
    assert choose_backend("auto", "float32", 1.01, CPU).name == fast
    assert choose_backend("auto", "float32", 1.01, torch.device("cuda")).name == "torch"
    assert choose_backend("auto", "float32", 0.5, torch.device("cuda")).name == "eigenvalues"


def test_without_the_compiled_kernel_the_result_says_that_torch_ran(monkeypatch):
    monkeypatch.setattr(native, "_kernel", None)
    assert find_instruction_sets() == []
    assert mutual_information(activations(30, 6, 0)).backend == "torch"
    with pytest.raises(InputError, match="backend 'native' was not compiled when the package was installed"):
        mutual_information(activations(30, 6, 0), backend="native")


@settings(max_examples=30, deadline=None, derandomize=True)
@given(alpha=st.floats(1, 2), shift=st.sampled_from([1e-7, 5e-7]))
def test_the_fit_is_within_its_stated_error_and_exact_at_zero(alpha, shift):
    fit = fit_entropy(alpha, shift)
    x = np.concatenate([[0], np.geomspace(1e-12, 1, 3001)])
    terms = np.column_stack([np.log1p(x[:, None] / fit.shifts), x, x**2])
    assert (np.abs(terms @ fit.coefficients - entropy_loss(x, alpha)) <= 1.05 * fit.error * np.maximum(x, FLOOR)).all()
    assert fit.error <= 5e-5


@pytest.mark.parametrize("width", [8.0, 1.0, 0.3])
def test_features_give_the_gram_back_and_their_spectrum_is_its_own(width):
    x = activations(150, 12, 0)[:, 4:]
    scaled = (x / (width * estimate_std(x))).T.contiguous()
    features, spectrum, is_whole = factor_grams(scaled, 1e-13)
    grams = neuron_grams(scaled)
    assert bool(is_whole.all())
    assert (features.values.double() @ features.values.double().mT - grams).abs().max() < 1e-5
    truth = torch.linalg.eigvalsh(grams).flip(-1) / 150
    assert (spectrum - truth[:, : spectrum.shape[1]]).abs().max() < 1e-12
    assert features.values.shape[2] <= MOST_FEATURES


def test_neurons_whose_rank_is_too_high_are_said_to_be_incomplete():
    x = torch.randn(300, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, _, is_whole = factor_grams((x / 0.02).T.contiguous(), 1e-7)
    assert not bool(is_whole.any())
    entropy = prepare_neurons(x, torch.full((3,), 0.02), 1.01, with_features=True).entropy_nats
    truth = prepare_neurons(x, torch.full((3,), 0.02), 1.01, with_features=False).entropy_nats
    assert torch.equal(entropy, truth)


def test_packed_grams_are_lower_triangles_row_by_row():
    scaled = torch.randn(20, 9, dtype=torch.float64)
    i, j = np.tril_indices(9)
    assert np.allclose(packed_grams(scaled, torch.float64).numpy(), neuron_grams(scaled)[:, i, j].numpy())


@pytest.mark.parametrize(("neurons", "rows"), [(5, 100), (BLOCK + 1, 100), (700, 2000)])
def test_blocks_cover_every_pair_once(neurons, rows):
    seen = np.zeros((neurons, neurons), dtype=int)
    for a, b in plan_blocks(neurons, rows):
        seen[a, b] += 1
        if a != b:
            seen[b, a] += 1
    assert (seen == 1).all()


def test_a_matrix_beyond_the_limit_lies_in_a_file_and_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    x = activations(60, 40, 0)
    in_memory = mutual_information(x, width=2.0)
    on_disk = mutual_information(x, width=2.0, most_bytes=1000)
    assert isinstance(on_disk.values, np.memmap)
    assert not isinstance(in_memory.values, np.memmap)
    assert (on_disk.values == in_memory.values).all()
    assert (on_disk.normalised_rows(np.array([3, 1])) == in_memory.normalised[[3, 1]]).all()
    assert list(tmp_path.iterdir()) == []  # the file has no name any more: it can't be left behind
    assert not isinstance(allocate((10, 10), np.dtype("float32"), 400), np.memmap)


def test_more_rows_in_one_kernel_agree_with_the_reference():
    x = activations(900, 8, 4)
    found = mutual_information(x, width=4.0, batch_size=None)
    truth = mutual_information(x, width=4.0, batch_size=None, backend="eigenvalues", dtype="float64")
    assert found.rows_per_kernel == 900
    assert found.path_share["low rank"] > 0.9
    assert (np.abs(found.values - truth.values) <= found.error_bound_nats[:, None]).all()


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("width", [6.0, 1.0, 0.02])
def test_entropies_over_many_rows_are_those_of_whole_grams(alpha, width):
    """At r = 0.02 the rank is too high for a factor."""
    z = activations(400, 6, 0).T / width
    single, double = z[3:, None], torch.stack([z[3:5], z[4:6]], dim=1)
    grams = neuron_grams(z)
    for points, wanted in ((single, grams[3:]), (double, grams[3:5] * grams[4:6])):
        assert (exact_entropy(points, alpha) - entropy_nats(wanted, alpha)).abs().max() <= 1e-9


@compiled
@pytest.mark.parametrize(("width", "most_missing"), [(0.1, 4e-6), (6.0, 0.0)])
def test_pairs_over_many_rows_that_are_left_over_are_done_in_float64(monkeypatch, width, most_missing):
    monkeypatch.setattr(native, "MOST_WHOLE_ROWS", 250)
    monkeypatch.setattr(native, "MOST_MISSING", most_missing)
    x = activations(300, 12, 7)[:, 4:]
    found = mutual_information(x, width=width, batch_size=None, backend="native")
    truth = mutual_information(x, width=width, batch_size=None, backend="eigenvalues", dtype="float64")
    assert found.path_share["float64"] > 0.5
    assert "full" not in found.path_share
    assert (np.abs(found.values - truth.values) <= found.error_bound_nats[:, None]).all()


@compiled
def test_the_baseline_is_what_shuffled_copies_give():
    x = activations(100, 24, 0)
    fast, slow = (mutual_information(x, width=1.0, debias=3, seed=1, backend=name) for name in ("native", "torch"))
    assert np.abs(fast.baseline - slow.baseline).max() <= 1e-4
    assert (np.abs(fast.values - slow.values) <= (fast.error_bound_nats + slow.error_bound_nats)[:, None]).all()


def test_pairs_of_many_rows_are_not_left_to_whole_grams():
    """Heavy tails: at 1e-7, 1 to 6 % of such pairs would miss too much trace, at seconds each."""
    x = torch.from_numpy(np.random.default_rng(0).standard_t(3, size=(600, 24)))
    found = mutual_information(x, width=4.0, batch_size=None)
    assert found.path_share == {"low rank": 1.0}


def test_an_offset_costs_no_digits():
    """A neuron far from 0 and almost constant, as one of MiniLM's is."""
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(100, 16)))
    x[:, 0] += 5000
    found = mutual_information(x, width=0.42, batch_size=None)
    exact = mutual_information(x, width=0.42, batch_size=None, dtype="float64")
    assert (np.abs(found.mi_nats - exact.mi_nats).max(axis=1) <= found.error_bound_nats).all()
    assert np.abs(found.mi_nats - exact.mi_nats)[0].max() <= 2e-5
