"""Whether an output dataset is what it claims to be: files, sidecars, geometry, values."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from bids_gmvae.io.image_checks import check_image, kind_of
from bids_gmvae.io.manifest import MANIFEST, checksum, dataset_files, read_manifest
from bids_gmvae.io.sources import dataset_key


@dataclass(frozen=True)
class Validation:
    """What was found about an output dataset.

    Attributes
    ----------
    problems : tuple of str
        One sentence per problem, beginning with the name of the file.
    n_files : int
        Files that were compared with the manifest.
    unreachable : tuple of str
        BIDS URIs of mapped images that were not found: grids were compared with masks alone.
    """

    problems: tuple[str, ...]
    n_files: int
    unreachable: tuple[str, ...]


def validate(out_dir: Path, inputs: Mapping[str, Path] | None = None) -> Validation:
    """Check an output dataset against its manifest, its input and itself; write nothing.

    Parameters
    ----------
    out_dir : Path
        Root of the output dataset.
    inputs : mapping of str to Path, optional
        Where the input datasets are now, by their name; else where ``DatasetLinks`` says.
    """
    roots = linked_datasets(out_dir)
    for name, root in (inputs or {}).items():
        key = dataset_key(name)
        roots[key] = [root, *roots.get(key, [])]
    found = list(check_manifest(out_dir))
    #: Files that are known to differ bear witness against no other.
    suspects = {out_dir / name for name, _ in found}
    unreachable: set[str] = set()
    present = dataset_files(out_dir)
    found += [
        (path.relative_to(out_dir).as_posix(), "there is no image.")
        for path in present
        if path.suffix == ".json" and kind_of(path.name)
        if not (image := path.with_suffix(".nii.gz")).exists() and image not in suspects
    ]
    for path in present:
        if not path.name.endswith(".nii.gz"):
            continue
        sidecar = path.with_name(path.name.removesuffix(".nii.gz") + ".json")
        name = path.relative_to(out_dir).as_posix()
        content: Mapping[str, Any] = {}
        if sidecar.exists():
            content, problems = read_sidecar(sidecar, path.name)
            found += [(sidecar.relative_to(out_dir).as_posix(), text) for text in problems]
        elif sidecar not in suspects:
            found.append((name, "there is no sidecar."))
        named = images_of(sources_of(content), roots)
        unreachable |= {uri for uri, image in named.items() if image is None}
        sources = [image for image in named.values() if image is not None]
        found += [(name, text) for text in check_image(path, sources, suspects)]
    told = tuple(f"{name}: {text}" for name, text in found)
    return Validation(told, len(present), tuple(sorted(unreachable)))


def check_manifest(out_dir: Path) -> Iterator[tuple[str, str]]:
    """Compare the files of a dataset with its manifest.

    Yields
    ------
    name, problem : str
        Path of the file within the dataset, and a sentence.
    """
    listed = {row["path"]: row for row in read_manifest(out_dir)}
    if not listed:
        yield MANIFEST, "it is missing or cannot be read: the run did not come to its end."
        return
    present = {path.relative_to(out_dir).as_posix(): path for path in dataset_files(out_dir)}
    for name in sorted(listed.keys() | present.keys()):
        if name not in present:
            yield name, f"it is in {MANIFEST} but not there."
        elif name not in listed:
            yield name, f"it is not in {MANIFEST}."
        else:
            yield from ((name, text) for text in _check_content(present[name], listed[name]))


def linked_datasets(out_dir: Path) -> dict[str, list[Path]]:
    """Find the input datasets where ``dataset_description.json`` says that they are."""
    try:
        text = (out_dir / "dataset_description.json").read_text(encoding="utf-8")
        links = json.loads(text)["DatasetLinks"].items()
        local = [(key, urlsplit(str(link))) for key, link in links]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}  # the manifest tells of a description that was changed
    return {
        key: [out_dir / unquote(link.path)] for key, link in local if link.scheme in ("", "file")
    }


def sources_of(sidecar: Mapping[str, Any]) -> list[str]:
    """Give the BIDS URIs of a sidecar; none if its ``Sources`` is no list, which is told."""
    sources = sidecar.get("Sources")
    return [str(uri) for uri in sources] if isinstance(sources, list) else []


def images_of(uris: Sequence[str], roots: Mapping[str, Sequence[Path]]) -> dict[str, Path | None]:
    """Find the images of input datasets among BIDS URIs.

    Parameters
    ----------
    uris : sequence of str
        Those of other files, and of files of the output dataset itself, are passed over.
    roots : mapping of str to sequence of Path
        Where each dataset may be.

    Returns
    -------
    dict of str to Path or None
        The image by its URI; None if it is nowhere.
    """
    found: dict[str, Path | None] = {}
    for uri in uris:
        match = re.fullmatch(r"bids:([^:]+):(.+\.nii(?:\.gz)?)", uri)
        if match:
            places = [root / unquote(match[2]) for root in roots.get(match[1], ())]
            found[uri] = next((place for place in places if place.is_file()), None)
    return found


def read_sidecar(path: Path, image: str) -> tuple[Mapping[str, Any], list[str]]:
    """Read a sidecar, and say what is wrong with it.

    Parameters
    ----------
    path : Path
        The JSON file.
    image : str
        File name of the image beside.

    Returns
    -------
    content : mapping
        Empty if it cannot be read.
    problems : list of str
        One sentence each.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return {}, [f"the sidecar cannot be read ({error})."]
    if not isinstance(content, dict):
        return {}, ["the sidecar is not a JSON object."]
    return content, [f"{problem}." for problem in sidecar_problems(image, content)]


def sidecar_problems(name: str, sidecar: Mapping[str, Any]) -> Iterator[str]:
    """Compare a sidecar with the schema of its kind of image.

    Parameters
    ----------
    name : str
        File name of the image.
    sidecar : mapping
        Content of the JSON file.

    Yields
    ------
    str
        One sentence per problem.
    """
    kind = kind_of(name)
    if kind is None:
        return
    for error in sorted(_validator(kind).iter_errors(sidecar), key=str):
        where = ".".join(str(part) for part in error.absolute_path)
        yield f"the sidecar{f' ({where})' if where else ''} is wrong: {error.message}"
    own = re.match(r"sub-[^_]+_(?:ses-[^_]+_)?", name)
    if own and not any(own.group() in uri for uri in sources_of(sidecar)):
        yield f"none of its Sources is of {own.group().strip('_')}"
    if "_space-" in name and "SpatialReference" not in sidecar:
        yield "the sidecar lacks SpatialReference, which a space- entity requires"
    if ("_desc-samples_" in name) != ("BootstrapAxis" in sidecar):
        yield "the sidecar must have BootstrapAxis if, and only if, the map holds samples"
    if "_res-" in name and "Resolution" not in sidecar:
        yield "the sidecar lacks Resolution, which a res- entity requires"


@functools.cache
def _validator(kind: str) -> Any:
    from jsonschema import Draft202012Validator  # only wanted for validation

    text = files("bids_gmvae").joinpath("data/sidecar_schema.json").read_text("utf-8")
    return Draft202012Validator({**json.loads(text), "$ref": f"#/$defs/{kind}"})


def _check_content(path: Path, listed: Mapping[str, str]) -> Iterator[str]:
    try:
        size, digest = checksum(path)
    except OSError as error:
        yield f"it cannot be read ({error.strerror})."
        return
    if str(size) != listed["size"]:
        yield f"it has {size} bytes, {MANIFEST} says {listed['size']}."
    elif digest != listed["sha256"]:
        yield f"it was changed: its checksum is not that of {MANIFEST}."
