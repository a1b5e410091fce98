"""Gradient tables: what is read, and in which frame it ends."""

import numpy as np
import pytest
from nibabel.affines import from_matvec

from bids_gmvae.exceptions import InputError
from bids_gmvae.io.gradients import fsl_to_image, read_b, read_bvals, read_bvecs, world_to_image
from tests.bids_tree import directions, text_of


def rotation(seed=3):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


@pytest.mark.parametrize(
    "text", ["0 1000 2000", "0\t1000\t2000\n", "0\n1000\n2000", " 0  1e3 2000.0 "]
)
def test_bvals_are_read_however_they_are_separated(tmp_path, text):
    path = tmp_path / "dwi.bval"
    path.write_text(text)
    assert read_bvals(path).tolist() == [0, 1000, 2000]


def test_bvecs_are_read_as_rows_of_volumes(tmp_path):
    vectors = directions(5)
    path = tmp_path / "dwi.bvec"
    path.write_text(text_of(vectors.T))
    read, transposed = read_bvecs(path)
    np.testing.assert_allclose(read, vectors, atol=1e-5)
    assert not transposed
    path.write_text(text_of(vectors).replace(" ", "\t"))
    read, transposed = read_bvecs(path)
    np.testing.assert_allclose(read, vectors, atol=1e-5)
    assert transposed


def test_three_volumes_are_taken_as_fsl_writes_them(tmp_path):
    path = tmp_path / "dwi.bvec"
    path.write_text("1 2 3\n4 5 6\n7 8 9")
    vectors, transposed = read_bvecs(path)
    assert vectors[0].tolist() == [1, 4, 7]
    assert not transposed


@pytest.mark.parametrize(
    ("reader", "text", "message"),
    [
        (read_bvals, "0,1000,2000", r"row 1, column 1 is '0,1000,2000'.*without commas"),
        (
            read_bvals,
            "0 1000 b2000",
            r"dwi\.txt must hold .* row 1, column 3 is 'b2000'",
        ),
        (read_bvals, "", r"is empty \(0 bytes\)"),
        (read_bvals, "0 1\n0 1\n0 1", r"must have one row of b-values, but has 3 rows"),
        (read_bvecs, "0 1 2 3\n0 1 2 3", r"but has 2 rows of 4 values"),
        (read_bvecs, "0 1 2\n0 1\n0 1 2", r"rows of equal length, but they have 2 and 3 values"),
        (read_b, "0 0 1 1000\n0 0 1", r"but row 2 has 3"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, reader, text, message):
    path = tmp_path / "dwi.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        reader(path)


def test_a_binary_file_is_no_table(tmp_path):
    path = tmp_path / "dwi.bval"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputError, match="must be a text file"):
        read_bvals(path)


def test_comments_of_mrtrix_are_ignored(tmp_path):
    path = tmp_path / "dwi.b"
    path.write_text("# command_history: mrconvert\n0 0 1 1000\n")
    vectors, bvals = read_b(path)
    assert vectors.tolist() == [[0, 0, 1]]
    assert bvals.tolist() == [1000]


@pytest.mark.parametrize("handedness", [1, -1])
def test_the_same_gradients_from_fsl_and_mrtrix_agree(handedness):
    # The rule of FSL, by which converters write: image axes, the first one negated if det > 0.
    cosines = rotation() * [handedness, 1, 1]
    affine = from_matvec(cosines * [2.0, 2.5, 3.0], [10, 20, 30])
    world = directions(20)
    image = world @ cosines
    fsl = image * [-1, 1, 1] if np.linalg.det(affine) > 0 else image
    np.testing.assert_allclose(world_to_image(world, affine), image, atol=1e-12)
    np.testing.assert_allclose(fsl_to_image(fsl, affine), image, atol=1e-12)


def test_arguments_are_left_alone():
    vectors = directions(3)
    copy = vectors.copy()
    fsl_to_image(vectors, np.eye(4))
    world_to_image(vectors, np.eye(4))
    np.testing.assert_array_equal(vectors, copy)


@pytest.mark.real_data
def test_tables_of_mrtrix_and_fsl_of_one_real_series_agree(real_data):
    import nibabel as nb

    folder = real_data / "03_mrtrix_msmt_qsiprep_like" / "sub-msmt01" / "dwi"
    stem = folder / "sub-msmt01_space-ACPC_desc-preproc_dwi"
    affine = nb.load(f"{stem}.nii.gz").affine
    bvals = read_bvals(stem.with_suffix(".bval"))
    fsl = fsl_to_image(read_bvecs(stem.with_suffix(".bvec"))[0], affine)
    mrtrix, weights = read_b(stem.with_suffix(".b"))
    np.testing.assert_allclose(weights, bvals)
    np.testing.assert_allclose(world_to_image(mrtrix, affine), fsl, atol=2e-4)
