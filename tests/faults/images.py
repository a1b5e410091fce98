"""Bad images, masks and noise maps."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nb
import numpy as np

from bids_gmvae.exceptions import ExitCode
from tests.bids_tree import AFFINE
from tests.faults.bench import Case, Place
from tests.tiny import SHAPE, signals

IMAGE = r"\S*sub-02_dwi\.nii\.gz"
MASK = r"\S*sub-02_desc-brain_mask\.nii\.gz"


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nb.save(nb.Nifti1Image(data, affine), path)
    return path


def image_of(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Place], None]:
    """Give what changes the voxels of the run."""
    return lambda place: (save(place.run(), change(signals(1).astype(np.float32))), None)[1]


def file_of(change: Callable[[bytes], bytes]) -> Callable[[Place], None]:
    """Give what changes the bytes of its file."""

    def spoil(place: Place) -> None:
        place.run().write_bytes(change(place.run().read_bytes()))

    return spoil


def header_of(*fields: tuple[int, bytes]) -> Callable[[Place], None]:
    """Give what overwrites bytes of the header: offset and bytes, as in nifti1.h."""

    def change(content: bytes) -> bytes:
        raw = bytearray(gzip.decompress(content))
        for offset, value in fields:
            raw[offset : offset + len(value)] = value
        return gzip.compress(bytes(raw))

    return file_of(change)


def mask_of(data: np.ndarray, affine: np.ndarray = AFFINE) -> Callable[[Place], None]:
    """Give what writes another mask."""
    return lambda place: (save(place.mask, data, affine), None)[1]


def noise_of(data: np.ndarray) -> Callable[[Place], list[object]]:
    """Give what writes a noise map."""
    return lambda place: ["--noise-map", save(place.root / "noise.nii.gz", data)]


def negated(volume: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(data: np.ndarray) -> np.ndarray:
        data[..., volume] *= -1
        return data

    return change


def with_affines(qform: np.ndarray, *fields: tuple[int, bytes]) -> Callable[[Place], None]:
    """Give what writes a qform beside the sform, both of the scanner, and overwrites fields."""

    def spoil(place: Place) -> None:
        image = nb.load(place.run())
        image.set_qform(qform, 1)
        image.set_sform(image.affine, 1)
        nb.save(image, place.run())
        header_of(*fields)(place)

    return spoil


def without_mask(spoil: Callable[[Place], None]) -> Callable[[Place], None]:
    """Give what does some damage, and takes the mask away."""
    return lambda place: (spoil(place), place.mask.unlink())[1]


def one_volume(value: float, volume: int = 7) -> Callable[[np.ndarray], np.ndarray]:
    def change(data: np.ndarray) -> np.ndarray:
        data[..., volume] = value
        return data

    return change


def flipped_bit(content: bytes) -> bytes:
    raw = bytearray(content)
    raw[len(raw) // 2] ^= 0x10
    return bytes(raw)


def uncompressed_and_cut(place: Place) -> None:
    raw = gzip.decompress(place.run().read_bytes())
    place.run(".nii").write_bytes(raw[:-100])
    place.run().unlink()


def a_folder(place: Place) -> None:
    place.run().unlink()
    place.run().mkdir()


def a_pointer(place: Place) -> None:
    place.run().write_text("/annex/objects/MD5E-s4000--0123456789abcdef.nii.gz\n")


def a_dead_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("../../.git/annex/objects/X1/Y2/MD5E-s4000--0.nii.gz")


def air(place: Place) -> None:
    """Empty a corner of the image, and let the mask cover nothing else."""
    data = signals(1)
    data[:2, :2] = 0
    save(place.run(), data)
    mask = np.zeros(SHAPE, np.uint8)
    mask[:2, :2] = 1
    save(place.mask, mask)


def moved(distance: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 3] = distance
    return affine


def two_runs_of_one_name(place: Place) -> None:
    (place.run(".nii")).write_bytes(gzip.decompress(place.run().read_bytes()))


ONES = np.ones(SHAPE, np.float32)
FLOAT_NAN = np.array(np.nan, "<f4").tobytes()

CASES = [
    Case("an empty file", f"{IMAGE} must be a NIfTI image", file_of(lambda _: b"")),
    Case("a text file", f"{IMAGE} must be a NIfTI image", file_of(lambda _: b"text, no image")),
    Case("a cut header", f"{IMAGE} must be a NIfTI image", file_of(lambda raw: raw[:40])),
    Case("a cut gzip file", rf"{IMAGE} must hold \d+ bytes", file_of(lambda raw: raw[:-500])),
    Case("an uncompressed .nii.gz", f"{IMAGE} must be a NIfTI image", file_of(gzip.decompress)),
    Case("a cut .nii", r"sub-02_dwi\.nii must hold \d+ bytes", uncompressed_and_cut),
    Case("the wrong magic", f"{IMAGE} must be a NIfTI image", header_of((344, b"xyz\0"))),
    Case(
        "voxels beyond the end",
        rf"{IMAGE} must hold \d+ bytes",
        header_of((108, np.array(9000, "<f4").tobytes())),
    ),
    Case(
        "negative dimensions",
        rf"{IMAGE} must have voxels .*\(-7, 6, 3, 20\)",
        header_of((42, b"\xf9\xff")),
    ),
    Case("no voxels", rf"{IMAGE} must have voxels .*\(0, 6, 3, 20\)", header_of((42, b"\0\0"))),
    Case(
        "an unknown data type", f"{IMAGE} must be a NIfTI .*code 999", header_of((70, b"\xe7\x03"))
    ),
    Case(
        "a folder named like an image",
        "bids/sub-02: no diffusion series",
        a_folder,
        code=ExitCode.NOTHING_ELIGIBLE,
    ),
    Case("an image not fetched", f"datalad get .*{IMAGE}", lambda p: a_dead_link(p.run())),
    Case("a pointer of git-annex", f"datalad get .*{IMAGE}", a_pointer),
    Case("complex numbers", "data type is complex64", image_of(lambda x: x.astype(np.complex64))),
    Case(
        "colours",
        f"{IMAGE} must hold real numbers",
        lambda p: (save(p.run(), np.zeros(SHAPE, np.dtype([(c, "u1") for c in "RGB"]))), None)[1],
    ),
    Case("three dimensions", rf"4 dimensions, but .*{IMAGE}", image_of(lambda x: x[..., 0])),
    Case("a single volume", rf"4 dimensions, but .*{IMAGE}", image_of(lambda x: x[..., :1])),
    Case("five dimensions", rf"4 dimensions, but .*{IMAGE}", image_of(lambda x: x[..., None, :])),
    Case("a volume too few", rf"has 20 and .*{IMAGE} has 19", image_of(lambda x: x[..., 1:])),
    Case(
        "nan in the affine",
        f"{IMAGE} must say where .* volume of nan",
        header_of((280, FLOAT_NAN)),
    ),
    Case(
        "an affine without volume",
        f"{IMAGE} must say where .* volume of 0",
        header_of((280, b"\0" * 16)),
    ),
    Case(
        "no orientation",
        f"{IMAGE} has neither qform nor sform",
        without_mask(header_of((252, b"\0" * 4))),
        code=ExitCode.OK,
    ),
    Case(
        "nan as offset of the scale",
        f"{IMAGE} must be a NIfTI",
        header_of((112, np.array([1, np.nan], "<f4").tobytes())),
    ),
    Case(
        "nan as slope of the scale",
        f"scl_slope of {IMAGE} is nan",
        header_of((112, FLOAT_NAN)),
        code=ExitCode.OK,
    ),
    Case(
        "inf as slope of the scale",
        f"{IMAGE} must have a scale .* scl_slope is inf",
        header_of((112, np.array(np.inf, "<f4").tobytes())),
    ),
    Case(
        "a qform and a sform 3 mm apart",
        f"those of {IMAGE} put a corner 3 mm apart",
        with_affines(moved(3)),
        code=ExitCode.OK,
    ),
    Case(
        "a qform and a sform of opposite sides",
        f"those of {IMAGE} put a corner 24 mm apart",
        with_affines(AFFINE * [-1, 1, 1, 1]),
        code=ExitCode.OK,
    ),
    Case(
        "a qform that is no rotation",
        f"that of {IMAGE} cannot be read",
        with_affines(AFFINE, (256, np.array(2, "<f4").tobytes())),
        code=ExitCode.OK,
    ),
    Case(
        "two files of one run, planned",
        r"sub-02_dwi\.nii\.gz: would have the same output names",
        two_runs_of_one_name,
        code=ExitCode.OK,
    ),
    Case(
        "two files of one run",
        r"sub-02_dwi\.nii\.gz: would have the same output names",
        two_runs_of_one_name,
        code=ExitCode.RUN_FAILED,
        maps=True,
    ),
    Case("a damaged gzip file", f"{IMAGE}", file_of(flipped_bit), maps=True),
    Case("a volume of nan", f"{IMAGE} .*volume 7 is nan", image_of(one_volume(np.nan)), maps=True),
    Case("a volume of inf", f"{IMAGE} .*volume 7 is inf", image_of(one_volume(np.inf)), maps=True),
    Case("a constant volume", f"{IMAGE} .*volume 7 are 100", image_of(one_volume(100)), maps=True),
    Case("an empty volume", f"{IMAGE} .*volume 7 are 0", image_of(one_volume(0)), maps=True),
    Case(
        "a negative volume",
        rf"{IMAGE} .*volume 7 over the mask is -\d",
        image_of(negated(7)),
        maps=True,
    ),
    Case(
        "a negative b0",
        rf"{IMAGE} .*volume 0 over the mask is -\d",
        image_of(negated(0)),
        maps=True,
    ),
    Case(
        "an image of zeros", f"{IMAGE} must .* largest is 0", image_of(lambda x: 0 * x), maps=True
    ),
    Case("an image of nan", f"{IMAGE} must .* is nan", image_of(lambda x: x * np.nan), maps=True),
    Case(
        "an image of zeros without a mask",
        f"{IMAGE} must .* largest is 0",
        without_mask(image_of(lambda x: 0 * x)),
        maps=True,
    ),
    Case(
        "negative signals",
        rf"{IMAGE} .*all 20 volumes do not: .* is -\d",
        image_of(lambda x: -x),
        maps=True,
    ),
    Case("a mask of another shape", rf"{MASK} has \(3, 3, 3\)", mask_of(np.ones((3, 3, 3), "u1"))),
    Case("a mask moved by 1 mm", f"{MASK} differs by up to 1 ", mask_of(ONES, moved(1))),
    Case("a mask of four dimensions", f"{MASK} has", mask_of(np.ones((*SHAPE, 2), "u1"))),
    Case(
        "a mask that is text", f"{MASK} must be a NIfTI", lambda p: p.mask.write_text("1") and None
    ),
    Case("a mask not fetched", f"datalad get .*{MASK}", lambda p: a_dead_link(p.mask)),
    Case("an empty mask", f"{MASK}.*is empty", mask_of(0 * ONES), maps=True),
    Case(
        "a mask of probabilities below one half",
        f"{MASK}.*is empty",
        mask_of(0.3 * ONES),
        maps=True,
    ),
    Case("a mask of nan", f"{MASK}.*is empty", mask_of(np.nan * ONES), maps=True),
    Case("a mask over air", f"{MASK}.*none of its 12 voxels", air, maps=True),
    Case("a complex mask", f"{MASK} must hold real numbers", mask_of(ONES.astype(np.complex64))),
    Case(
        "a noise map on another grid",
        r"noise\.nii\.gz has \(2, 2, 2\)",
        noise_of(np.ones((2, 2, 2))),
    ),
    Case("a noise map of zeros", r"noise\.nii\.gz is zero", noise_of(0 * ONES), maps=True),
    Case("a negative noise map", r"noise\.nii\.gz is zero", noise_of(-ONES), maps=True),
    Case(
        "a noise map of a corner",
        r"noise\.nii\.gz must be positive in the mask, but is so in only \d+ of 60 voxels",
        noise_of(ONES * (np.indices(ONES.shape).sum(axis=0) < 5)),
        maps=True,
    ),
    Case(
        "a mask that is missing",
        "the file gone.nii.gz does not exist",
        lambda p: ["--mask", p.root / "gone.nii.gz"],
        code=ExitCode.BAD_COMMAND_LINE,
    ),
]
