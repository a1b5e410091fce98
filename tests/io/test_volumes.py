"""Images read volume by volume: the same values as nibabel gives, in less memory."""

import errno
import gzip
import os
import subprocess
import sys

import nibabel as nb
import numpy as np
import pytest

from bids_gmvae.exceptions import InputError, StorageError
from bids_gmvae.io import volumes
from bids_gmvae.io.images import open_image
from bids_gmvae.io.volumes import BLOCK, keep, map_rows, mean_volume, read_rows, stored_volumes

SHAPE = (5, 4, 3)
#: More than one block of columns, and not a multiple of it.
N_VOLUMES = 2 * BLOCK + 3
IS_B0 = np.arange(N_VOLUMES) % 16 == 0


def write(path, stored, *, slope=1, inter=0):
    """Write stored values byte by byte: what nibabel would choose is not asked."""
    header = nb.Nifti1Header(endianness=">" if stored.dtype.byteorder == ">" else "<")
    header.set_data_shape(stored.shape)
    header.set_data_dtype(stored.dtype)
    header.set_sform(np.eye(4), code=1)
    header.set_slope_inter(slope, inter)
    header["magic"], header["vox_offset"] = b"n+1", 352
    content = header.binaryblock + bytes(4) + stored.tobytes(order="F")
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.fixture
def values():
    return np.random.default_rng(0).integers(1, 30_000, (*SHAPE, N_VOLUMES)).astype("i2")


@pytest.fixture
def mask():
    return np.random.default_rng(1).random(SHAPE) < 0.6


@pytest.mark.parametrize("extension", ["nii", "nii.gz"])
@pytest.mark.parametrize(
    ("dtype", "slope", "inter"),
    [("<i2", 1, 0), ("<i2", 0.37, -5), ("<u2", 0.37, 0), ("<f4", 1, 0), (">i2", 2, 0)],
)
def test_rows_are_what_nibabel_gives_at_the_voxels_of_the_mask(
    tmp_path, values, mask, extension, dtype, slope, inter
):
    stored = (values * (1.1 if "f" in dtype else 1)).astype(dtype)
    path = write(tmp_path / f"dwi.{extension}", stored, slope=slope, inter=inter)
    image = open_image(path)
    whole = nb.load(path).get_fdata(dtype=np.float32)
    rows = read_rows(image, mask, IS_B0, tmp_path / "signals.f32")
    np.testing.assert_array_equal(rows.signals, whole[mask])
    np.testing.assert_allclose(rows.reference, whole[..., IS_B0].mean(axis=-1), rtol=1e-6)
    np.testing.assert_allclose(mean_volume(image, IS_B0), rows.reference, rtol=1e-6)
    assert rows.supported.all()


def test_zeros_and_what_is_not_finite_are_no_lack_of_signal(tmp_path, values):
    values = values.astype("f4")
    values[0, 0, 0, ~IS_B0] = 0
    values[0, 0, 1, [0, 5]] = np.nan
    values[1, 0, 0, IS_B0] = 0
    values[1, 0, 1] = 0
    values[1, 0, 2] = np.nan
    path = write(tmp_path / "dwi.nii.gz", values)
    everything = np.ones(SHAPE, dtype=bool)
    rows = read_rows(open_image(path), everything, IS_B0, tmp_path / "signals.f32")
    without = np.argwhere(~rows.supported.reshape(SHAPE))
    assert without.tolist() == [[1, 0, 0], [1, 0, 1], [1, 0, 2]]
    assert mean_volume(open_image(path), IS_B0)[1, 0, 2] == 0


def read(tmp_path, values, mask):
    image = open_image(write(tmp_path / "dwi.nii.gz", values))
    return read_rows(image, mask, IS_B0, tmp_path / "signals.f32")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (np.nan, r"volume 7 \(counted from 0\) hold none: the first voxel of volume 7 is nan"),
        (-np.inf, "the first voxel of volume 7 is -inf"),
        (0, "vary over the mask, .* all voxels of volume 7 are 0"),
        (100, "all voxels of volume 7 are 100"),
    ],
)
def test_a_volume_without_signal_is_named_with_its_file_and_value(
    tmp_path, values, mask, value, says
):
    values = values.astype("f4")
    values[..., 7] = value
    with pytest.raises(InputError, match=rf"Each volume of .*dwi\.nii\.gz must .*{says}"):
        read(tmp_path, values, mask)


@pytest.mark.parametrize("volume", [0, 7])
def test_a_volume_of_negative_signals_is_named_whether_weighted_or_not(
    tmp_path, values, mask, volume
):
    values = 100 + values // 1000
    values[..., volume] *= -1
    mean = f"{values[mask, volume].mean():.4g}"
    says = rf"positive signals, but volume {volume} .* of volume {volume} over the mask is {mean}"
    with pytest.raises(InputError, match=says):
        read(tmp_path, values, mask)


def test_negative_values_of_interpolation_are_data(tmp_path, values, mask):
    values[np.random.default_rng(3).random(values.shape) < 0.05] = -20
    rows = read(tmp_path, values, mask)
    assert (rows.signals < 0).any()
    assert rows.supported.all()


def test_voxels_without_support_make_no_volume_bad(tmp_path, values):
    everything = np.ones(SHAPE, dtype=bool)
    values[1:] = -30_000
    rows = read(tmp_path, values, everything)
    np.testing.assert_array_equal(rows.supported, np.argwhere(everything)[:, 0] == 0)


@pytest.mark.parametrize(
    ("factor", "says"),
    [
        (0, r"dwi\.nii\.gz must hold positive signals, .* their largest is 0"),
        (np.nan, r"dwi\.nii\.gz must hold positive signals, .* the first is nan"),
        (-1, r"Each volume of .*dwi\.nii\.gz .* but all 67 volumes do not: the mean of volume 0"),
    ],
)
def test_an_image_without_any_signal_is_blamed_and_not_the_mask(
    tmp_path, values, mask, factor, says
):
    with pytest.raises(InputError, match=says):
        read(tmp_path, (values * factor).astype("f4"), mask)


def test_a_mask_beside_what_has_signal_is_no_fault_of_the_image(tmp_path, values, mask):
    values[mask] = 0
    assert not read(tmp_path, values, mask).supported.any()


@pytest.mark.parametrize(
    ("factor", "says"), [(0, "is 0"), (np.nan, "first is nan"), (-1, r"is -[\d.e+]+\.")]
)
def test_b0_images_without_signal_give_no_mean_to_find_a_mask_in(tmp_path, values, factor, says):
    image = open_image(write(tmp_path / "dwi.nii.gz", (values * factor).astype("f4")))
    with pytest.raises(InputError, match=rf"mean b0 image of .*dwi\.nii\.gz must .*{says}"):
        mean_volume(image, IS_B0)


@pytest.mark.parametrize("reason", [errno.EOPNOTSUPP, errno.EINVAL])
def test_room_is_taken_where_file_systems_cannot_promise_it(
    tmp_path, values, mask, monkeypatch, reason
):
    expected = np.array(read(tmp_path, values, mask).signals)
    monkeypatch.setattr(volumes, "ZEROS", 1000)

    def refuse(*_):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    np.testing.assert_array_equal(read(tmp_path, values, mask).signals, expected)


def test_room_that_is_missing_is_told_before_anything_is_mapped(
    tmp_path, values, mask, monkeypatch
):
    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(StorageError, match=r"no space left for .*signals\.f32"):
        read(tmp_path, values, mask)


@pytest.mark.parametrize("axis", [0, 1])
def test_rows_and_columns_are_left_out_within_the_file(tmp_path, monkeypatch, axis):
    monkeypatch.setattr("bids_gmvae.io.volumes.CHUNK", 7)
    rng = np.random.default_rng(2)
    values = rng.random((60, 11), np.float32)
    chosen = rng.random(values.shape[axis]) < 0.7
    file = tmp_path / "signals.f32"
    values.tofile(file)
    left = keep(np.memmap(file, np.float32, "r+", shape=values.shape), chosen, axis=axis)
    np.testing.assert_array_equal(left, values.compress(chosen, axis=axis))
    np.testing.assert_array_equal(map_rows(file, left.shape[1]), left)


def test_an_image_that_is_damaged_inside_is_named(tmp_path, values):
    path = write(tmp_path / "dwi.nii.gz", values)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = b"\xff" * 200
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"voxels of .*dwi\.nii\.gz must be readable.*CRC"):
        list(stored_volumes(open_image(path), N_VOLUMES))


MEASURED = """
import resource, sys
from pathlib import Path
import numpy as np
from bids_gmvae.io.images import open_image
from bids_gmvae.io.volumes import read_rows
image = open_image(Path(sys.argv[1]))
mask = np.zeros(image.shape[:3], dtype=bool)
mask[:8, :8, :8] = True
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
read_rows(image, mask, np.ones(image.shape[3], dtype=bool), Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_image(tmp_path):
    volume = np.arange(64 * 64 * 40, dtype="i2").reshape(64, 64, 40) % 100
    path = write(tmp_path / "dwi.nii.gz", np.stack([volume] * 150, axis=-1))
    command = [sys.executable, "-c", MEASURED, path, tmp_path / "signals.f32"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    image_kib = volume.nbytes * 150 / 1024
    assert int(done.stdout) < 0.4 * image_kib
