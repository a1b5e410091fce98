"""The written transform is the one that the phantom was made with."""

import h5py
import numpy as np
import pytest

from bids_gmvae.simulation.warp import FIELD_SHAPE, Warp


@pytest.fixture(scope="module")
def warp() -> Warp:
    return Warp.random(np.random.default_rng(1))


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    return np.random.default_rng(2).uniform(-50, 50, (20, 3))


def test_mapping_there_and_back_is_the_identity(warp: Warp, points: np.ndarray) -> None:
    assert np.abs(warp.to_template(points) - points).max() > 1
    np.testing.assert_allclose(warp.to_subject(warp.to_template(points)), points, atol=1e-6)


def test_heads_differ_by_seed(warp: Warp, points: np.ndarray) -> None:
    other = Warp.random(np.random.default_rng(2))
    assert np.abs(other.to_subject(points) - warp.to_subject(points)).max() > 1


@pytest.mark.parametrize("direction", ["write", "write_inverse"])
def test_nitransforms_maps_points_as_the_phantom_does(
    warp: Warp, points: np.ndarray, tmp_path, direction: str
) -> None:
    manip = pytest.importorskip("nitransforms.manip")
    path = tmp_path / "xfm.h5"
    getattr(warp, direction)(path)
    chain = manip.TransformChain.from_filename(path, fmt="itk")
    expected = (warp.to_subject if direction == "write" else warp.to_template)(points)
    # nitransforms interpolates displacements by splines, ITK (and we) linearly.
    np.testing.assert_allclose(chain.map(points), expected, atol=0.3)


def test_file_has_the_layout_of_itk(warp: Warp, tmp_path) -> None:
    warp.write(tmp_path / "xfm.h5")
    with h5py.File(tmp_path / "xfm.h5") as file:
        group = file["TransformGroup"]
        types = [group[key]["TransformType"][0] for key in ("0", "1", "2")]
        assert types == [
            b"CompositeTransform_double_3_3",
            b"AffineTransform_double_3_3",
            b"DisplacementFieldTransform_double_3_3",
        ]
        # ITK's reader refuses UTF-8 strings.
        text = h5py.check_string_dtype(group["0"]["TransformType"].dtype)
        assert text.encoding == "ascii"
        assert group["2"]["TransformParameters"].shape == (3 * np.prod(FIELD_SHAPE),)


def test_equal_transforms_give_equal_bytes(warp: Warp, tmp_path) -> None:
    for name in ("a.h5", "b.h5"):
        warp.write(tmp_path / name)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
