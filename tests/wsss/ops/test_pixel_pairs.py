from __future__ import annotations

import pytest

from wsss.ops.pixel_pairs import half_plane_offsets, in_image_window, interior_window, path_pixels, path_runs


@pytest.mark.parametrize(("radius", "count"), [(1, 0), (5, 34), (10, 152)])
def test_published_number_of_offsets(radius: int, count: int) -> None:
    assert len(half_plane_offsets(radius)) == count


def test_offsets_of_radius_two_by_hand() -> None:
    assert half_plane_offsets(2) == ((0, 1), (1, -1), (1, 0), (1, 1))


@pytest.mark.parametrize("radius", [3, 5, 10])
def test_each_unordered_pair_once_and_none_at_the_radius(radius: int) -> None:
    half = half_plane_offsets(radius)
    disc = {
        (dy, dx)
        for dy in range(-radius, radius + 1)
        for dx in range(-radius, radius + 1)
        if 0 < dy * dy + dx * dx < radius * radius
    }
    assert {*half, *((-dy, -dx) for dy, dx in half)} == disc
    assert 2 * len(half) == len(disc)


def test_paths_by_hand() -> None:
    assert path_pixels((0, 3)) == ((0, 0), (0, 1), (0, 2), (0, 3))
    assert path_pixels((1, 1)) == ((0, 0), (0, 1), (1, 0), (1, 1))
    # Distance of the corners (0, 2) and (2, 0) from the diagonal: the square root of two.
    assert path_pixels((2, 2)) == ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (2, 2))
    # On a slope of one half every pixel of the box is nearer than one.
    assert path_pixels((1, -2)) == ((0, -2), (0, -1), (0, 0), (1, -2), (1, -1), (1, 0))


@pytest.mark.parametrize("radius", [5, 10])
def test_a_path_is_the_same_from_either_end(radius: int) -> None:
    for dy, dx in half_plane_offsets(radius):
        there = set(path_pixels((dy, dx)))
        back = {(y + dy, x + dx) for y, x in path_pixels((-dy, -dx))}
        assert {(0, 0), (dy, dx)} <= there
        assert there == back


def test_runs_cover_the_path_without_overlap_and_are_few() -> None:
    for dy, dx in half_plane_offsets(10):
        dim, runs = path_runs((dy, dx))
        step_y, step_x = (0, 1) if dim == -1 else (1, 0)
        covered = [(y + k * step_y, x + k * step_x) for y, x, length in runs for k in range(length)]
        assert sorted(covered) == list(path_pixels((dy, dx)))
        assert len(runs) == min(abs(dy), abs(dx)) + 1


def test_interior_sources_reach_only_pixels_inside() -> None:
    window = interior_window((11, 19), radius=4)
    assert window == (0, 3, 8, 13)
    for dy, dx in half_plane_offsets(4):
        rows, columns = window.shifted((dy, dx))
        assert rows.start >= 0 and rows.stop <= 11 and columns.start >= 0 and columns.stop <= 19


def test_in_image_window_holds_exactly_the_sources_with_a_partner() -> None:
    for offset in half_plane_offsets(5):
        rows, columns = in_image_window((3, 7), offset=offset).shifted((0, 0))
        window = {(y, x) for y in range(3)[rows] for x in range(7)[columns]}
        expected = {(y, x) for y in range(3) for x in range(7) if y + offset[0] < 3 and 0 <= x + offset[1] < 7}
        assert window == expected


def test_errors_name_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"radius is 0; it must be a whole number of at least 1"):
        half_plane_offsets(0)
    with pytest.raises(ValueError, match=r"\(0, 0\)"):
        path_pixels((0, 0))
    with pytest.raises(ValueError, match=r"map of 40x18 .* at least 10x19"):
        interior_window((40, 18), radius=10)
