"""What holds for every gradient table."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from bids_gmvae.io.gradients import fsl_to_image, read_b, read_bvals, read_bvecs, world_to_image
from bids_gmvae.io.run import Run
from bids_gmvae.modalities.dwi_tables import read_table
from tests.properties.strategies import SAME, SEEDS, affines, directions


def written(path, rows, separator=" "):
    path.write_text("\n".join(separator.join(map(repr, map(float, row))) for row in rows))
    return path


SEPARATORS = st.sampled_from([" ", "\t", "   "])


@SAME
@given(bvals=st.lists(st.floats(0, 1e6), min_size=1, max_size=300), separator=SEPARATORS)
def test_bvals_survive_writing_and_reading(tmp_path_factory, bvals, separator):
    folder = tmp_path_factory.getbasetemp()
    in_a_row = written(folder / "row.bval", [bvals], separator)
    in_a_column = written(folder / "column.bval", [[b] for b in bvals])
    assert read_bvals(in_a_row).tolist() == read_bvals(in_a_column).tolist() == bvals


@SAME
@given(vectors=directions(least=4), separator=SEPARATORS)
def test_bvecs_survive_writing_and_reading_either_way_round(tmp_path_factory, vectors, separator):
    folder = tmp_path_factory.getbasetemp()
    for rows, transposed in ((vectors.T, False), (vectors, True)):
        read, found = read_bvecs(written(folder / "dwi.bvec", rows, separator))
        np.testing.assert_array_equal(read, vectors)
        assert found == transposed


@SAME
@given(vectors=directions(), affine=affines())
def test_frames_keep_lengths_and_angles(vectors, affine):
    for turned in (fsl_to_image(vectors, affine), world_to_image(vectors, affine)):
        np.testing.assert_allclose(turned @ turned.T, vectors @ vectors.T, atol=1e-9)


@SAME
@given(vectors=directions(), affine=affines(), seed=SEEDS)
def test_turning_the_patient_does_not_change_what_the_image_sees(vectors, affine, seed):
    turn = Rotation.random(random_state=seed).as_matrix()
    turned = affine.copy()
    turned[:3, :3] = turn @ affine[:3, :3]
    np.testing.assert_allclose(
        world_to_image(vectors @ turn.T, turned), world_to_image(vectors, affine), atol=1e-9
    )


@SAME
@given(vectors=directions(), affine=affines())
def test_both_kinds_of_table_give_the_same_directions(tmp_path_factory, vectors, affine):
    """The same gradients, as MRtrix and as FSL define them, reach the image alike."""
    folder = tmp_path_factory.getbasetemp()
    bvals = np.full(len(vectors), 1000.0)
    along_axes = world_to_image(vectors, affine)
    sign = -1 if np.linalg.det(affine[:3, :3]) > 0 else 1
    files = {
        "bval": written(folder / "dwi.bval", [bvals]),
        "bvec": written(folder / "dwi.bvec", (along_axes * [sign, 1, 1]).T),
    }
    b = written(folder / "dwi.b", np.c_[vectors, bvals])
    np.testing.assert_array_equal(read_b(b)[0], vectors)
    tables = [
        read_table(Run("dwi", (folder / "x_dwi.nii",), {"subject": "x"}, companions=found), affine)
        for found in (files, {"b": b})
    ]
    if len(vectors) != 3:  # else nobody can tell rows from columns
        np.testing.assert_allclose(tables[0].bvecs, tables[1].bvecs, atol=1e-9)


@SAME
@given(vectors=directions(least=4), lengths=st.floats(0.01, 100), zero=st.integers(0, 3))
def test_directions_get_length_one_and_none_stays_none(tmp_path_factory, vectors, lengths, zero):
    folder = tmp_path_factory.getbasetemp()
    scaled = vectors * lengths
    scaled[zero] = 0
    files = {
        "bval": written(folder / "dwi.bval", [np.ones(len(vectors))]),
        "bvec": written(folder / "dwi.bvec", scaled.T),
    }
    run = Run("dwi", (folder / "x_dwi.nii",), {"subject": "x"}, companions=files)
    table = read_table(run, np.diag([-1.0, 1, 1, 1]))
    expected = vectors.copy()
    expected[zero] = 0
    np.testing.assert_allclose(table.bvecs, expected, atol=1e-12)
    np.testing.assert_allclose(np.delete(table.lengths, zero), lengths, rtol=1e-9)
