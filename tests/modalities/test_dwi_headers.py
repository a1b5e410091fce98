"""Headers that contradict themselves are told of, what other programs write is not."""

import gzip

import nibabel as nb
import numpy as np
import pytest

from bids_gmvae.exceptions import InputError
from bids_gmvae.io.images import open_image
from bids_gmvae.masking import check_grid
from bids_gmvae.modalities.dwi_headers import check_header
from bids_gmvae.voxels import Grid, read_qform, read_slope

SHAPE = (40, 40, 20)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
#: Offsets of nifti1.h.
SLOPE, QUATERN_B = 112, 256


def turned(degrees):
    angle = np.deg2rad(degrees)
    affine = AFFINE.copy()
    affine[:2, :2] = 2 * np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    return affine


def moved(distance):
    affine = AFFINE.copy()
    affine[0, 3] = distance
    return affine


@pytest.fixture
def save(tmp_path):
    """Write an image, give its affines and overwrite a number of its header."""

    def write(sform=AFFINE, qform=None, codes=(1, 1), *, offset=None, value=0.0):
        image = nb.Nifti1Image(np.ones((*SHAPE, 2), "u1"), AFFINE)
        image.set_qform(sform if qform is None else qform, codes[0])
        image.set_sform(sform, codes[1])
        raw = bytearray(image.to_bytes())
        if offset is not None:
            raw[offset : offset + 4] = np.array(value, "<f4").tobytes()
        path = tmp_path / "dwi.nii.gz"
        path.write_bytes(gzip.compress(bytes(raw)))
        return path

    return write


def said(path):
    return [issue.text for issue in check_header(path, open_image(path))]


@pytest.mark.parametrize(
    ("qform", "codes"),
    [
        (AFFINE, (1, 1)),
        (turned(0.3), (1, 1)),
        (moved(0.5), (1, 1)),
        (moved(50), (0, 1)),
        (moved(50), (1, 2)),
        (turned(20), (1, 4)),
    ],
)
def test_affines_may_differ_by_rounding_or_lead_to_different_spaces(save, qform, codes):
    assert said(save(qform=qform, codes=codes)) == []


@pytest.mark.parametrize("codes", [(1, 1), (1, 2)])
@pytest.mark.parametrize("axis", range(3))
def test_a_flip_between_the_affines_is_told_whatever_their_codes(save, axis, codes):
    flipped = AFFINE.copy()
    flipped[axis, axis] *= -1
    (text,) = said(save(qform=flipped, codes=codes))
    assert "dwi.nii.gz put a corner" in text
    assert text.endswith("mm apart; the sform is used.")


def test_affines_that_put_a_corner_elsewhere_are_told_with_the_distance(save):
    (text,) = said(save(qform=moved(1.5)))
    assert "those of" in text
    assert "put a corner 1.5 mm apart" in text


@pytest.mark.parametrize("value", [2.0, np.nan])
def test_a_damaged_qform_beside_a_sform_is_told_and_not_used(save, value):
    path = save(offset=QUATERN_B, value=value)
    (text,) = said(path)
    assert "that of" in text
    assert "cannot be read; the sform is used" in text
    image = open_image(path)
    assert read_qform(image) is None
    np.testing.assert_array_equal(Grid.of(image).image(np.ones(SHAPE, "u1")).get_qform(), AFFINE)


@pytest.mark.parametrize("value", [0, 1, 0.37, -2])
def test_any_number_is_a_scale(save, value):
    path = save(offset=SLOPE, value=value)
    assert read_slope(open_image(path)) == pytest.approx(value)
    assert said(path) == []


def test_a_scale_that_is_not_a_number_is_told_since_it_is_read_as_none(save):
    (text,) = said(save(offset=SLOPE, value=np.nan))
    assert "scl_slope of" in text
    assert "dwi.nii.gz is nan" in text


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_an_infinite_scale_is_refused(save, value):
    path = save(offset=SLOPE, value=value)
    with pytest.raises(InputError, match=rf"dwi\.nii\.gz .* its scl_slope is {value:g}"):
        open_image(path)
    with pytest.raises(InputError, match=rf"mask .*dwi\.nii\.gz .* its scl_slope is {value:g}"):
        check_grid(path, Grid((*SHAPE, 2), AFFINE, 1, 1))


def test_formats_without_a_slope_have_none(tmp_path):
    path = tmp_path / "mask.mgz"
    nb.save(nb.MGHImage(np.ones(SHAPE, "u1"), AFFINE), path)
    assert read_slope(nb.load(path)) == 1
