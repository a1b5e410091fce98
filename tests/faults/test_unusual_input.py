"""Input that is unusual yet valid gives the maps that plain input gives."""

import gzip
import os
import shutil
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from bids_gmvae.cli.parser import parse_args
from bids_gmvae.cli.plan import make_plan
from bids_gmvae.exceptions import ExitCode
from bids_gmvae.workflows.base import init_gmvae_wf
from tests.bids_tree import MASK_DATASET, RAW, directions, text_of, write_tree
from tests.faults.bench import Bench, Place, contents
from tests.tiny import BVALS, SHAPE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

#: Oblique, voxels of three sizes, det > 0.
TILT = np.deg2rad(20)
ROTATION = [[np.cos(TILT), -np.sin(TILT), 0], [np.sin(TILT), np.cos(TILT), 0], [0, 0, 1]]
AFFINE = nb.affines.from_matvec(np.array(ROTATION) * [2.0, 2.5, 3.0], [-5.0, 3.0, 10.0])
#: Directions in world coordinates.
WORLD = directions(len(BVALS)) * (BVALS[:, None] > 0)


def fibres():
    """Draw magnitudes of a stick and a ball, (*SHAPE, n_volumes)."""
    rng = np.random.default_rng(0)
    axes = rng.normal(size=(*SHAPE, 3))
    axes /= np.linalg.norm(axes, axis=-1, keepdims=True)
    stick = np.exp(-BVALS * 1.7e-3 * (axes @ WORLD.T) ** 2)
    clean = 1000 * (0.6 * stick + 0.4 * np.exp(-BVALS * 1.2e-3))
    noise = rng.normal(scale=15, size=(2, *clean.shape))
    return np.hypot(clean + noise[0], noise[1]).astype(np.int16)


SIGNALS = fibres()
PLAIN = nb.Nifti1Image(SIGNALS, AFFINE)
MASK = nb.Nifti1Image(np.pad(np.ones((5, 4, 3), np.uint8), ((1, 1), (1, 1), (0, 0))), AFFINE)


def along(image, codes):
    """Store an image along other axes, e.g. ``LPS``."""
    here, there = nb.io_orientation(image.affine), nb.orientations.axcodes2ornt(codes)
    return image.as_reoriented(nb.orientations.ornt_transform(here, there))


def fsl_table(affine):
    """Write the directions as FSL wants them for an image."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    vectors = WORLD @ np.linalg.inv(axes).T
    if np.linalg.det(affine) > 0:
        vectors[:, 0] *= -1
    return "\n".join(" ".join(f"{value:.12g}" for value in row) for row in vectors.T)


def scaled(slope, inter, dtype):
    """Store the values by a scale that gives them back exactly."""
    raw = ((SIGNALS - inter) / slope).astype(dtype)
    return with_header(nb.Nifti1Image(raw, AFFINE), scl_slope=slope, scl_inter=inter)


def with_header(image, **fields):
    """Write header fields beside nibabel, which would put them right."""
    raw = image.to_bytes()
    header = nb.Nifti1Header(raw[:348], check=False)
    for name, value in fields.items():
        header.structarr[name] = value
    return header.binaryblock + raw[348:]


def coded(qform, sform):
    """Say where the voxels lie in one of the two ways only; the other one lies."""
    image = nb.Nifti1Image(SIGNALS, None)
    image.set_qform(AFFINE if qform else np.diag([9, 9, 9, 1]), qform)
    image.set_sform(AFFINE if sform else np.diag([9, 9, 9, 1]), sform)
    image.header["pixdim"][1:4] = [2.0, 2.5, 3.0]
    return image.to_bytes()


#: The scan along other axes, by label of the participant.
TURNED = {label: along(PLAIN, codes) for label, codes in [("flipped", "LAS"), ("permuted", "SLA")]}

#: The same voxels in other files: bytes before compression. Oddities are put together, two a scan.
STORED = {
    "plain": PLAIN.to_bytes(),
    "scaled": scaled(0.25, -512, np.int16),
    "negativeScale": scaled(-0.5, 4096, np.int16),
    "noScale": with_header(PLAIN, scl_slope=0, scl_inter=77),
    "double": nb.Nifti1Image(SIGNALS.astype(np.float64), AFFINE).to_bytes(),
    "bigEndian": nb.Nifti1Image(SIGNALS, AFFINE, nb.Nifti1Header(endianness=">")).to_bytes(),
    "nifti2": nb.Nifti2Image(SIGNALS, AFFINE).to_bytes(),
}

#: The same affine, to the digits that a quaternion keeps.
CODED = {"sform": coded(0, 1), "qform": coded(1, 0)}

#: Other files beside an image.
BESIDE = {
    "scaled": {".bval": text_of(BVALS).replace(" ", "\r\n") + "\r\n"},
    "negativeScale": {".bval": "\n " + text_of(BVALS).replace(" ", "\t") + " \n\n"},
    "noScale": {".bval": " ".join(f"{b:.5e}" for b in BVALS)},
    "double": {".json": '\ufeff{"EchoTime": 0.08, "Größe": "\u2028"}'},
}


def add(bids, label, raw, *, like=PLAIN, **others):
    """Write a participant: bytes of its image, and what belongs to an image like another."""
    stem = f"sub-{label}/dwi/sub-{label}"
    folder = write_tree(bids, {f"{stem}_dwi.nii.gz": ""}).joinpath(stem).parent
    tables = {".bval": text_of(BVALS), ".bvec": fsl_table(like.affine), ".json": "{}"}
    for extension, text in {**tables, **others}.items():
        folder.joinpath(f"sub-{label}_dwi{extension}").write_bytes(text.encode())
    mask = bids / f"derivatives/masks/{stem}_desc-brain_mask.nii.gz"
    mask.parent.mkdir(parents=True)
    nb.save(along(MASK, nb.aff2axcodes(like.affine)), mask)
    path = folder / f"sub-{label}_dwi.nii.gz"
    path.write_bytes(raw)
    return path


def annexed(folder, bids):
    """Keep the content elsewhere, as git-annex does."""
    store = bids / ".git/annex/objects"
    store.mkdir(parents=True)
    for path in list(folder.iterdir()):
        key = store / f"MD5E-s1--{path.name}"
        shutil.move(path, key)
        path.symlink_to(os.path.relpath(key, folder))


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """Map one scan that is stored in all these ways, one participant each; gives the output."""
    place = Place(tmp_path_factory.mktemp("unusual"))
    described = {"": RAW, "derivatives/masks/": MASK_DATASET}
    write_tree(
        place.bids, {f"{name}dataset_description.json": text for name, text in described.items()}
    )
    for label, raw in (STORED | CODED).items():
        add(place.bids, label, gzip.compress(raw), **BESIDE.get(label, {}))
    for label, image in TURNED.items():
        add(place.bids, label, gzip.compress(image.to_bytes()), like=image)
    raw = STORED["nifti2"]
    run = "sub-{0}/dwi/sub-{0}_dwi.nii".format
    place.bids.joinpath(f"{run('nifti2')}.gz").write_bytes(
        gzip.compress(raw[:4000]) + gzip.compress(raw[4000:])
    )
    place.bids.joinpath(f"{run('bigEndian')}.gz").unlink()
    place.bids.joinpath(run("bigEndian")).write_bytes(STORED["bigEndian"])
    annexed(place.bids / "sub-sform/dwi", place.bids)
    place.bids.joinpath("sub-qform/dwi/sub-qform_dwi.json").unlink()
    mask = place.bids / "derivatives/masks/sub-qform/dwi/sub-qform_desc-brain_mask.nii.gz"
    nb.save(nb.Nifti1Image(0.1 + 0.8 * np.asarray(MASK.dataobj), AFFINE), mask)
    map_without_figures(parse_args(place.arguments("--signal-model", "ball_stick")))
    return place.out


def map_without_figures(settings):
    """Map everything in this process; to draw it would take most of the time."""
    plan = make_plan(settings)
    assert len(plan.runs) == len(STORED | CODED | TURNED)
    workflow = init_gmvae_wf(plan, settings)
    for name in workflow.list_node_names():
        parent, _, node = name.rpartition(".")
        if node == "figures":
            workflow.get_node(parent).remove_nodes([workflow.get_node(name)])
    workflow.run(plugin="Linear")


def images(out, label):
    """Give the images of a participant by name, without the label."""
    found = {
        path.name.removeprefix(f"sub-{label}_"): path
        for path in (out / f"sub-{label}").rglob("*.nii.gz")
    }
    assert len(found) > 8
    return found


@pytest.mark.parametrize("label", STORED)
def test_another_way_to_store_a_scan_gives_the_same_maps(mapped, label):
    plain = images(mapped, "plain")
    for name, path in images(mapped, label).items():
        assert path.read_bytes() == plain[name].read_bytes(), name


@pytest.mark.parametrize("label", CODED)
def test_one_of_the_two_affines_is_enough(mapped, label):
    plain = images(mapped, "plain")
    for name, path in images(mapped, label).items():
        image, expected = nb.load(path), nb.load(plain[name])
        np.testing.assert_array_equal(image.dataobj, expected.dataobj)
        np.testing.assert_allclose(image.affine, expected.affine, atol=1e-5)


@pytest.mark.parametrize("label", TURNED)
def test_other_axes_give_the_same_maps_in_world_coordinates(mapped, label):
    plain = images(mapped, "plain")
    found = images(mapped, label)
    assert found.keys() == plain.keys()
    for name, path in found.items():
        image = nb.load(path)
        assert nb.aff2axcodes(image.affine) == nb.aff2axcodes(TURNED[label].affine)
        here = along(image, "RAS")
        expected = nb.load(plain[name])
        np.testing.assert_allclose(here.affine, expected.affine, atol=1e-5)
        data, wanted = here.get_fdata(), expected.get_fdata()
        if "param-vector" in name:
            data, wanted = in_world(data, image.affine), in_world(wanted, AFFINE)
            data *= np.sign((data * wanted).sum(axis=-1, keepdims=True))
        np.testing.assert_allclose(data, wanted, rtol=1e-3, atol=1e-6, err_msg=name)


def in_world(vectors, affine):
    """Bring vectors of the image axes to the axes of the world."""
    return vectors @ (affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)).T


#: Files that name others, and mistake what BIDS says about their content.
CLIMBING = {
    "participants.tsv": "participant_id\n../../escaped\nsub-../../escaped\n",
    "dataset_description.json": {**RAW, "GeneratedBy": "me", "DatasetDOI": ["../.."]},
    "sub-01/dwi/sub-01_dwi.json": {
        "EchoTime": 0.08,
        "subject": "../../escaped",
        "run": "../escaped",
        "suffix": "bold",
        "IntendedFor": ["../../../../etc/passwd"],
        "Sources": ["bids::../../../../etc/passwd"],
        "SpatialReference": "../../escaped.nii.gz",
    },
}


def test_neither_names_of_folders_nor_what_files_say_of_others_changes_a_byte(tmp_path):
    bench = Bench(tmp_path / "bench")
    odd = tmp_path / """.it's "größe" $(touch pwned) `touch pwned` -x; 100% & <b>\\n"""
    place = Place(odd / "links")
    shutil.copytree(bench.clean.bids, odd / "real bids")
    write_tree(odd / "real bids", CLIMBING)
    (odd / "real out").mkdir()
    place.root.mkdir()
    place.bids.symlink_to("../real bids")
    place.out.symlink_to(odd / "real out")
    arguments = place.arguments("--participant-label", "01")
    for more in ([], ["--validate-outputs"]):
        result = bench.call(place, [*arguments, *more])
        assert result.code == ExitCode.OK, result.lines
    expected = {
        name: digest
        for name, digest in contents(bench.clean.out).items()
        if name.startswith("sub-01/")
    }
    found = contents(place.out)
    assert {name: found.get(name) for name in expected} == expected
    assert sum(name.endswith(".nii.gz") for name in expected) > 8
    page = (place.out / "sub-01.html").read_text(encoding="utf-8")
    assert "& <b>" not in page
    made = [*tmp_path.rglob("*"), *ROOT.iterdir(), *ROOT.parent.iterdir()]
    assert not [path for path in made if path.name.startswith(("pwned", "escaped"))]
