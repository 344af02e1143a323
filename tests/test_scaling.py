import numpy as np
import pytest
import torch
from sklearn.manifold import smacof as reference

from secateurs.information.backends import native
from secateurs.selection.scaling import (
    MOST_ITERATIONS,
    can_use_kernel,
    draw_starts,
    join_copies,
    place_by_landmarks,
    smacof,
    transform_by_kernel,
    transform_by_torch,
)


def correlated_distance(neurons=120, seed=0):
    """Distances such as neurons have: 1 - |correlation| of activations, the last ten being copies of the first."""
    rows = torch.randn(60, neurons, generator=torch.Generator().manual_seed(seed))
    rows[:, -10:] = rows[:, :10]
    return (1 - torch.corrcoef(rows.T).abs()).clamp(min=0).fill_diagonal_(0)


@pytest.mark.parametrize("iterations", [1, 10, 100])
def test_it_is_scikit_learns_smacof_from_the_same_starts(iterations):
    distance, starts = correlated_distance(), draw_starts((0,), 6, 120, 10)
    found = smacof(distance, starts, tolerance=-1.0, most_iterations=iterations)
    symmetric = ((distance + distance.T) / 2).double().numpy()
    for place, start in enumerate(starts):
        points, stress, _ = reference(
            symmetric,
            metric=True,
            n_components=10,
            init=start.double().numpy(),
            n_init=1,
            max_iter=iterations,
            eps=0.0,
            return_n_iter=True,
        )
        assert float(found.stress[place]) == pytest.approx(stress, rel=1e-6)
        assert np.abs(found.points[place].numpy() - points).max() < 1e-3


@pytest.mark.parametrize(
    "isa", native.find_instruction_sets() or [pytest.param("", marks=pytest.mark.skip("no compiler"))]
)
@pytest.mark.parametrize(("neurons", "dimensions"), [(2, 1), (3, 2), (33, 5), (120, 10), (64, 16)])
def test_every_instruction_set_moves_points_as_torch_does(isa, neurons, dimensions):
    distance = correlated_distance(max(neurons, 12))[:neurons, :neurons].contiguous()
    points = draw_starts((0,), 3, neurons, dimensions)
    moved, crossed = transform_by_kernel(distance, points, isa)
    wanted, wanted_crossed = transform_by_torch(distance.double(), points.double())
    assert (moved - wanted).abs().max() < 1e-5
    assert torch.allclose(crossed, wanted_crossed, rtol=1e-5, atol=1e-6)


def test_without_the_compiled_kernel_torch_does_the_same(monkeypatch):
    distance, starts = correlated_distance(), draw_starts((0,), 3, 120, 10)
    compiled = smacof(distance, starts)
    monkeypatch.setattr("secateurs.selection.scaling._kernel", None)
    assert not can_use_kernel(distance, 10)
    assert torch.allclose(smacof(distance, starts).stress, compiled.stress, rtol=1e-5)


def test_points_in_the_plane_are_found_again():
    points = torch.randn(80, 2, generator=torch.Generator().manual_seed(0))
    wanted = torch.cdist(points, points)
    found = smacof(wanted, draw_starts((0,), 8, 80, 2), tolerance=1e-6, most_iterations=2000)
    best = found.points[found.stress.argmin()]
    assert (torch.cdist(best, best) - wanted).abs().max() < 0.05
    assert float(found.relative_stress.min()) < 1e-4


def test_stress_is_that_of_the_points():
    distance = correlated_distance()
    found = smacof(distance, draw_starts((3,), 5, 120, 10))
    for points, stress, relative in zip(found.points, found.stress, found.relative_stress, strict=True):
        wanted = (torch.cdist(points.double(), points.double()) - distance.double()).square().sum() / 2
        assert float(stress) == pytest.approx(float(wanted), rel=1e-5)
        assert float(relative) == pytest.approx(float(stress) / float(distance.double().square().sum() / 2), rel=1e-6)


def test_each_start_goes_its_own_way_and_stops_by_itself():
    distance, starts = correlated_distance(), draw_starts((0,), 7, 120, 5)
    starts[6] = torch.nn.functional.pad(starts[6, :, :1], (0, 4))  # a line, which is soon as good as a line can be
    together = smacof(distance, starts, tolerance=1e-3)
    assert together.iterations.unique().numel() > 1
    assert 0 <= together.capped_share <= 1
    assert int(together.iterations.max()) <= MOST_ITERATIONS
    for place in (0, 6):
        alone = smacof(distance, starts[place : place + 1], tolerance=1e-3)
        assert torch.allclose(alone.points[0], together.points[place], atol=1e-4)
        assert int(alone.iterations) == int(together.iterations[place])


def test_starts_that_run_out_of_iterations_are_counted():
    found = smacof(correlated_distance(), draw_starts((0,), 3, 120, 5), most_iterations=4)
    assert found.iterations.tolist() == [4, 4, 4]
    assert found.capped_share == 1


def test_a_start_depends_on_its_seed_and_number_alone():
    few, many = draw_starts((1, 2), 2, 30, 4), draw_starts((1, 2), 5, 30, 4)
    assert torch.equal(few, many[:2])
    assert not torch.equal(few[0], few[1])
    assert not torch.equal(few, draw_starts((1, 3), 2, 30, 4))


def test_copies_start_at_one_point_and_stay_together():
    distance, starts = correlated_distance(), draw_starts((0,), 3, 120, 10)
    distance[50, 77] = distance[77, 50] = 0.02  # no copy
    joined = join_copies(starts, distance)
    chain = torch.ones(3, 3).fill_diagonal_(0)
    chain[0, 1] = chain[1, 0] = chain[1, 2] = chain[2, 1] = 0.005
    assert torch.equal(join_copies(starts[:, :3], chain), starts[:, :1].expand(-1, 3, -1))
    assert torch.equal(joined[:, 110:], starts[:, :10])
    assert torch.equal(joined[:, :110], starts[:, :110])
    points = smacof(distance, joined).points
    apart = (points[:, 110:] - points[:, :10]).norm(dim=2)
    assert float(apart.max()) < 1e-3


def test_neurons_that_share_everything_or_nothing_do_no_harm():
    for distance in (torch.zeros(20, 20), torch.ones(20, 20).fill_diagonal_(0)):
        found = smacof(distance, draw_starts((0,), 3, 20, 4))
        assert bool(torch.isfinite(found.points).all())
        assert bool(torch.isfinite(found.stress).all())


def test_landmarks_place_the_others_where_scaling_all_would():
    points = torch.randn(300, 3, generator=torch.Generator().manual_seed(1))
    points[200] = points[5]
    wanted = torch.cdist(points, points)
    landmarks = smacof(wanted[:100, :100], draw_starts((0,), 6, 100, 3), tolerance=1e-6, most_iterations=1000)
    best = int(landmarks.stress.argmin())
    placed = place_by_landmarks(wanted[:100], landmarks.points)[best]
    off = (torch.cdist(placed, placed) - wanted).abs()
    assert float(off.median()) < 0.02
    assert float(torch.dist(placed[200], placed[5])) < 0.02
