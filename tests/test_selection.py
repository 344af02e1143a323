import numpy as np
import pytest

from secateur.information import mutual_information
from secateur.results import MutualInformation
from secateur.selection.medoids import normalised_distance, select_medoids
from secateur.selection.ranking import find_largest_shared, penalise_redundancy, round_width, select_top


def information(matrix):
    matrix = np.asarray(matrix, dtype=float)
    return MutualInformation("test", matrix, "nats", "test", rows_per_kernel=10, kernels=1, path_share={})


def test_top_scores_are_kept_sorted_and_ties_go_to_the_lower_index():
    assert select_top(np.array([1.0, 3.0, 2.0, 3.0, 3.0]), 3).tolist() == [1, 3, 4]
    assert select_top(np.array([5.0, 5.0, 5.0]), 2).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("original", "keep", "round_to", "width"),
    [
        (1536, 0.8, 1, 1229),
        (512, 0.4, 1, 205),
        (1536, 0.8, 64, 1216),
        (1536, 0.6, 8, 920),
        (128, 0.75, 64, 64),  # 96 lies between 64 and 128: ties go down
        (100, 0.01, 64, 64),  # at least one multiple
        (24, 0.5, 64, 24),  # never above the original
        (1000, 0.99, 64, 960),
        (1000, 1.0, 64, 1000),  # keep everything
        (10, 0.01, 1, 1),
    ],
)
def test_width_is_the_nearest_multiple(original, keep, round_to, width):
    assert round_width(original, keep, round_to) == width


def test_largest_share_looks_only_at_more_important_neurons():
    shared = find_largest_shared(
        np.array([3.0, 1.0, 2.0]), information([[2.0, 1.0, 0.5], [1.0, 1.0, 0.2], [0.5, 0.2, 4.0]])
    )
    assert shared.tolist() == [0.0, 1.0, 0.25]  # 1.0 / min(1, 2); 0.5 / min(4, 2)


def test_of_equal_copies_the_first_counts_as_original():
    shared = find_largest_shared(np.ones(3), information(np.ones((3, 3))))
    assert shared.tolist() == [0.0, 1.0, 1.0]


def test_a_neuron_without_information_shares_none():
    shared = find_largest_shared(np.array([1.0, 2.0]), information([[0.0, 0.0], [0.0, 1.0]]))
    assert shared.tolist() == [0.0, 0.0]


def test_penalty_starts_at_one_half_and_ends_at_a_copy():
    assert penalise_redundancy(np.full(4, 2.0), np.array([0.3, 0.5, 0.75, 1.0])).tolist() == [2.0, 2.0, 1.0, 0.0]


def test_medoids_keep_one_of_each_group_of_copies():
    x = np.random.default_rng(0).normal(size=(200, 5))
    copies = np.concatenate([x, x * 2.0, -x], axis=1)
    distance = normalised_distance(mutual_information(copies, alpha=2, width=1.0, batch_size=None))
    kept = select_medoids(distance, 5, seed=0)
    assert sorted(kept % 5) == [0, 1, 2, 3, 4]
    assert np.allclose(np.diag(distance), 0)
    assert distance.min() >= 0
    assert distance.max() <= 1


def test_medoids_are_reproducible_sorted_and_of_the_asked_number():
    distance = np.abs(np.subtract.outer(*2 * [np.random.default_rng(1).normal(size=40)]))
    first, second = select_medoids(distance, 11, seed=3), select_medoids(distance, 11, seed=3)
    assert first.tolist() == second.tolist() == sorted(set(first.tolist()))
    assert len(first) == 11
    assert select_medoids(distance, 40, seed=0).tolist() == list(range(40))
