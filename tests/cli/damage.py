"""What may happen to files that the app wrote; each gives the file that must be named."""

import json
import shutil

import nibabel as nb
import numpy as np

from bids_gmvae.io.atomic import read_tsv, write_image, write_tsv
from bids_gmvae.io.manifest import COLUMNS

STEM = "sub-01/dwi/sub-01"
MODEL = f"{STEM}_model-msdki"
MSD = f"{MODEL}_param-msd_desc-mean_dwimap"
S0 = f"{MODEL}_param-s0_desc-mean_dwimap"
STATUS = f"{MODEL}_desc-status_dseg"
MASK = f"{STEM}_desc-gmvae_mask"


def rewrite(path, data=None, affine=None):
    image = nb.load(path)
    data = np.asanyarray(image.dataobj).copy() if data is None else data
    write_image(path, nb.Nifti1Image(data, image.affine if affine is None else affine))


def flip_a_byte(out):
    path = out / f"{MSD}.nii.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


def delete_a_sidecar(out):
    path = out / f"{MSD}.json"
    path.unlink()
    return path


def delete_the_mask(out):
    path = out / f"{MASK}.nii.gz"
    path.unlink()
    return path


def drop_a_field_of_a_sidecar(out):
    path = out / f"{MSD}.json"
    content = json.loads(path.read_text())
    del content["Units"]
    path.write_text(json.dumps(content))
    return path


def move_a_map(out):
    path = out / f"{MSD}.nii.gz"
    affine = nb.load(path).affine.copy()
    affine[0, 3] += 2
    rewrite(path, affine=affine)
    return path


def move_the_mask(out):
    path = out / f"{MASK}.nii.gz"
    rewrite(path, affine=np.eye(4))
    return path


def cut_the_mask(out):
    path = out / f"{MASK}.nii.gz"
    path.write_bytes(path.read_bytes()[:60])
    return path


def exceed_the_range(out):
    path = out / f"{MSD}.nii.gz"
    data = nb.load(path).get_fdata(dtype=np.float32)
    data[3, 3, 1] = 1.0  # mm^2/s, 300 times free water
    rewrite(path, data)
    return path


def make_a_deviation_negative(out):
    path = out / f"{MSD.replace('mean', 'std')}.nii.gz"
    rewrite(path, -nb.load(path).get_fdata(dtype=np.float32))
    return path


def make_a_signal_negative(out):
    path = out / f"{S0}.nii.gz"
    rewrite(path, -nb.load(path).get_fdata(dtype=np.float32))
    return path


def forge_a_status(out):
    path = out / f"{STATUS}.nii.gz"
    data = np.asanyarray(nb.load(path).dataobj).copy()
    data[3, 3, 1] = 99
    rewrite(path, data)
    return path


def drop_a_line_of_the_manifest(out):
    rows = [row for row in read_tsv(out / "manifest.tsv") if row["path"] != f"{MSD}.nii.gz"]
    write_tsv(out / "manifest.tsv", rows, COLUMNS)
    return out / f"{MSD}.nii.gz"


def add_a_file(out):
    path = out / "sub-01" / "dwi" / "notes.txt"
    path.write_text("mine")
    return path


def add_a_map(out):
    path = out / f"{MSD.replace('msd_', 'mine_')}.nii.gz"
    shutil.copy(out / f"{MSD}.nii.gz", path)
    return path


def add_a_field_to_a_sidecar(out):
    return edit_a_sidecar(out, PatientName="Doe^Jane")


def edit_a_sidecar(out, **fields):
    path = out / f"{MSD}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return path


def change_the_report(out):
    path = out / "sub-01.html"
    path.write_text(path.read_text() + " ")
    return path


def delete_the_report(out):
    path = out / "sub-01.html"
    path.unlink()
    return path


def delete_a_figure(out):
    path = out / f"{MODEL.replace('dwi/', 'figures/')}_desc-scatter_dwi.svg"
    path.unlink()
    return path


def delete_a_map(out):
    path = out / f"{MSD}.nii.gz"
    path.unlink()
    return path


def put_a_folder_in_place_of_a_map(out):
    path = delete_a_map(out)
    path.mkdir()
    return path


def lose_the_manifest(out):
    (out / "manifest.tsv").write_bytes(b"path\tsize\xff")
    return out / "manifest.tsv"


def put_a_folder_in_place_of_the_manifest(out):
    path = out / "manifest.tsv"
    path.unlink()
    path.mkdir()
    return path


#: What is done, and what is said of the file beyond that it is not the one of the manifest.
DAMAGE = [
    (flip_a_byte, "its checksum is not that of"),
    (delete_a_sidecar, "but not there"),
    (delete_the_mask, "but not there"),
    (drop_a_field_of_a_sidecar, "'Units' is a required property"),
    (add_a_field_to_a_sidecar, "'PatientName' was unexpected"),
    (delete_a_map, "but not there"),
    (put_a_folder_in_place_of_a_map, "but not there"),
    (change_the_report, "bytes, manifest.tsv says"),
    (delete_the_report, "but not there"),
    (delete_a_figure, "but not there"),
    (move_a_map, "the grid is not that of its source sub-01_dwi.nii.gz"),
    (move_the_mask, "the grid is not that of its source"),
    (cut_the_mask, "the image cannot be read"),
    (exceed_the_range, "exceed the range"),
    (make_a_deviation_negative, "exceed the range 0 to inf"),
    (make_a_signal_negative, "exceed the range 0 to inf"),
    (forge_a_status, r"unknown status codes \[99\]"),
    (drop_a_line_of_the_manifest, "it is not in manifest.tsv"),
    (add_a_file, "it is not in manifest.tsv"),
    (add_a_map, "it is not in manifest.tsv"),
    (lose_the_manifest, "missing or cannot be read"),
    (put_a_folder_in_place_of_the_manifest, "missing or cannot be read"),
]
