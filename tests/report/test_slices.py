"""Which slices are shown, and that left is where the letters say."""

import numpy as np
import pytest

from bids_gmvae.report.slices import choose_view


def test_the_right_of_the_patient_is_on_the_left_of_the_tile_for_any_storage_order():
    for flip in (1, -1):
        affine = np.diag([flip, 1, 1, 1.0])
        affine[0, 3] = 0 if flip > 0 else 9
        volume = np.zeros((10, 12, 8))
        world_right = 9 if flip > 0 else 0
        volume[world_right] = 1
        view = choose_view(np.ones(volume.shape, bool), affine)
        assert view.sides == ("R", "L")
        for tile in view.tiles(volume):
            assert tile[:, 0].all()
            assert not tile[:, 1:].any()


def test_anterior_is_at_the_top_of_an_axial_tile():
    volume = np.zeros((10, 12, 8))
    volume[:, -1] = 1
    view = choose_view(np.ones(volume.shape, bool), np.eye(4))
    assert view.tiles(volume)[0][0].all()


def test_a_lone_slice_is_shown_face_on_whatever_its_axis():
    for axis in range(3):
        shape = [30, 30, 30]
        shape[axis] = 1
        view = choose_view(np.ones(shape, bool), np.eye(4))
        assert view.axis == axis
        assert view.positions == (0,)


def test_slices_lie_across_the_thick_axis():
    view = choose_view(np.ones((20, 12, 20), bool), np.diag([2, 6, 2, 1.0]))
    assert view.axis == 1


def test_slices_are_within_the_mask_and_distinct():
    mask = np.zeros((20, 20, 30), bool)
    mask[5:15, 5:15, 10:25] = True
    view = choose_view(mask, np.eye(4))
    assert len(set(view.positions)) == len(view.positions) == 6
    assert all(10 <= position < 25 for position in view.positions)


def test_flat_cuts_get_fewer_and_larger_tiles():
    assert len(choose_view(np.ones((60, 20, 30), bool), np.eye(4)).positions) < 4


def test_an_empty_mask_shows_the_whole_volume():
    view = choose_view(np.zeros((8, 8, 8), bool), np.eye(4))
    assert view.tile_shape == (8, 8)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_the_place_of_a_slice_is_its_world_coordinate(order):
    affine = np.zeros((4, 4))
    affine[order, range(3)] = 2
    affine[:, 3] = (5, 6, -7, 1)
    view = choose_view(np.ones((9, 9, 9), bool), affine)
    assert view.labels[0] == f"z = {2 * view.positions[0] - 7:.0f} mm".replace("-", "−")
