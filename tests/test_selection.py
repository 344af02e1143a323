import numpy as np
import pytest
import torch

from secateurs.information import mutual_information
from secateurs.results import MutualInformation
from secateurs.selection.candidates import mean_kl_nats
from secateurs.selection.clusters import select_by_clusters
from secateurs.selection.distances import DISTANCES, exp_distance, normalised_distance
from secateurs.selection.medoids import select_medoids
from secateurs.selection.ranking import find_largest_shared, penalise_redundancy, round_width, select_top
from secateurs.selection.threshold import draw_pairs, remove_redundant, select_by_threshold


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


SIX = np.array(
    [
        [2.0, 0.9, 0.1, 0.2, 0.1, 0.3],
        [0.9, 2.0, 0.8, 0.1, 0.2, 0.1],
        [0.1, 0.8, 2.0, 0.3, 0.1, 0.2],
        [0.2, 0.1, 0.3, 2.0, 0.7, 0.6],
        [0.1, 0.2, 0.1, 0.7, 2.0, 0.4],
        [0.3, 0.1, 0.2, 0.6, 0.4, 2.0],
    ]
)


def test_algorithm_1_does_what_a_run_by_hand_does():
    """Threshold 0.6; each draw names two places among the neurons that are left.

    | left             | places | neurons | shared | removed |
    | 0 1 2 3 4 5      | 0, 2   | 0, 2    | 0.1    |         |
    | 0 1 2 3 4 5      | 1, 0   | 1, 0    | 0.9    | 0       |
    | 1 2 3 4 5        | 0, 1   | 1, 2    | 0.8    | 2       |
    | 1 3 4 5          | 3, 1   | 5, 3    | 0.6    | 3       |
    | 1 4 5            | 1, 2   | 4, 5    | 0.4    |         |
    | 1 4 5            | 0, 1   | 1, 4    | 0.2    |         |
    """
    places = iter([(0, 2), (1, 0), (0, 1), (3, 1), (1, 2), (0, 1)])
    counts = []

    def draw(count):
        counts.append(count)
        return next(places)

    assert remove_redundant(SIX, 0.6, draws=6, draw=draw).tolist() == [1, 4, 5]
    assert counts == [6, 6, 5, 4, 3, 3]


def test_algorithm_1_stops_after_its_draws_or_at_the_asked_number():
    places = [(1, 0)] * 6
    assert remove_redundant(SIX, 0.0, draws=2, draw=lambda count: places[0]).tolist() == [2, 3, 4, 5]
    assert remove_redundant(SIX, 0.0, draws=9, draw=lambda count: (1, 0), down_to=3).tolist() == [3, 4, 5]
    assert len(remove_redundant(SIX, 0.0, draws=99, draw=lambda count: (1, 0))) == 1


def test_with_enough_draws_no_pair_above_the_threshold_is_left():
    for seed in range(5):
        kept = remove_redundant(SIX, 0.6, draws=500, draw=draw_pairs(seed))
        rest = SIX[np.ix_(kept, kept)]
        assert (rest[~np.eye(len(kept), dtype=bool)] < 0.6).all()


@pytest.mark.parametrize("width", [1, 3, 5, 6])
def test_the_threshold_falls_until_the_asked_number_is_left(width):
    kept = select_by_threshold(SIX, width, draw_pairs(1))
    assert len(kept) == width
    assert kept.tolist() == sorted(set(kept.tolist()))


def test_pairs_above_the_first_threshold_go_before_all_others():
    """Of 20 neurons the first 8 share much with one another: 28 of 190 pairs, more than the tenth that T_r takes."""
    shared = np.full((20, 20), 0.1)
    shared[:8, :8] = 5.0
    for seed in range(5):
        kept = select_by_threshold(shared, 13, draw_pairs(seed))
        assert set(range(8, 20)) < set(kept.tolist())
        assert len(kept) == 13


def test_draws_are_of_two_different_neurons_and_depend_on_the_seed():
    first, again, other = ([draw(5) for _ in range(200)] for draw in (draw_pairs(0), draw_pairs(0), draw_pairs(0, 1)))
    assert first == again != other
    assert all(a != b and min(a, b) >= 0 and max(a, b) < 5 for a, b in first)
    assert len(set(first)) == 20


def test_exp_distance_leaves_copies_apart_and_normalised_brings_them_together():
    shared = information([[0.04, 0.04, -0.1], [0.04, 0.04, 0.0], [-0.1, 0.0, 0.3]])
    assert exp_distance(shared)[0].tolist() == pytest.approx([0.0, np.exp(-0.04), 1.0])
    assert normalised_distance(shared)[0].tolist() == pytest.approx([0.0, 0.0, 1.0])


@pytest.mark.parametrize("name", sorted(DISTANCES))
def test_some_rows_of_a_distance_are_those_of_the_whole(name):
    x = np.random.default_rng(0).normal(size=(40, 9))
    shared, rows = mutual_information(x, alpha=2, width=1.0), np.array([1, 4, 8])
    whole = DISTANCES[name](shared, slice(None))
    assert np.array_equal(DISTANCES[name](shared, rows), whole[rows])
    assert (np.diagonal(whole) == 0).all()


def test_clusters_keep_the_neuron_nearest_each_centre():
    points = np.array([[0.0], [0.1], [0.5], [9.0], [9.2], [10.0]])
    assert select_by_clusters(points, 2, seed=0).tolist() == [1, 4]


@pytest.mark.parametrize("width", [1, 7, 30, 59, 60])
def test_clusters_keep_exactly_as_many_as_asked_even_of_coinciding_points(width):
    points = np.repeat(np.random.default_rng(0).normal(size=(5, 3)), 12, axis=0)
    kept = select_by_clusters(points, width, seed=0)
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert len(kept) == width
    assert len({tuple(points[place]) for place in kept}) == min(width, 5)


def test_divergence_is_that_of_the_softmax():
    original, other = torch.tensor([[0.0, 0.0], [1.0, -1.0]]), torch.tensor([[1.0, 0.0], [1.0, -1.0]])
    p, q = np.array([0.5, 0.5]), np.exp([1.0, 0.0]) / np.exp([1.0, 0.0]).sum()
    assert mean_kl_nats(original, other) == pytest.approx((p * np.log(p / q)).sum() / 2)
    assert mean_kl_nats(original, original) == 0
