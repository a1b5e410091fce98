import json
import re

import nibabel as nb
import numpy as np
import pytest
import torch

from bids_gmvae.exceptions import InputError, NothingEligibleError
from bids_gmvae.group import group_level
from bids_gmvae.group.tables import COLUMNS
from bids_gmvae.io import derivatives
from bids_gmvae.io.atomic import read_tsv, write_image, write_tsv
from bids_gmvae.io.derivatives import map_path, write_result
from bids_gmvae.posterior import FAILED
from tests.results import AFFINE, PROVENANCE, make_result, make_run


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def select(rows, **wanted):
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


@pytest.fixture
def cohort(tmp_path):
    """Two participants with one model each, and the result of the first."""
    results = []
    for subject, name, seed in (("01", "msdki", 1), ("02", "t2_adc", 2)):
        result = make_result(name, seed=seed, run=make_run(subject=subject, session=None))
        write_result(result, tmp_path, provenance=PROVENANCE)
        results.append(result)
    return tmp_path, results


def write_atlas(folder, labels, affine=AFFINE, name="tpl-X_atlas-Halves_dseg"):
    folder.mkdir(exist_ok=True)
    write_image(folder / f"{name}.nii.gz", nb.Nifti1Image(labels.astype(np.int16), affine))
    rows = [{"index": 1, "name": "Lower"}, {"index": 2, "name": "Upper"}]
    rows.append({"index": 7, "name": "Elsewhere"})
    write_tsv(folder / f"{name}.tsv", rows)
    return f"{folder / name}.nii.gz+{folder / name}.tsv"


def test_the_whole_mask_is_summarised_over_voxels_with_an_estimate(cohort):
    out_dir, (result, _) = cohort
    rows = group_level(out_dir).parameters
    kept = ~np.isin(result.posterior.status, FAILED)
    (row,) = select(rows, participant_id="sub-01", parameter="msd", region="all")
    values = result.posterior.mean[:, 0].numpy()[kept].astype(float)
    assert row["n_voxels"] == kept.sum()
    assert row["mean"] == pytest.approx(values.mean())
    assert row["median"] == pytest.approx(np.median(values))
    assert row["std"] == pytest.approx(values.std())
    assert row["iqr"] == pytest.approx(np.subtract(*np.percentile(values, (75, 25))))
    assert row["mean_posterior_sd"] == pytest.approx(
        result.posterior.std[:, 0].numpy()[kept].mean(), rel=1e-5
    )
    assert row["mean_prior_influence"] == pytest.approx(
        result.posterior.prior_influence[:, 0].numpy()[kept].mean(), rel=1e-5
    )
    assert (row["unit"], row["model"], row["session_id"]) == ("mm^2/s", "msdki", None)


def test_sloppy_runs_are_marked_in_every_table(tmp_path):
    for subject, sloppy in (("01", True), ("02", False)):
        result = make_result(run=make_run(subject=subject))
        (summary,) = (
            path
            for path in write_result(result, tmp_path, provenance={**PROVENANCE, "sloppy": sloppy})
            if path.name.endswith("_desc-qc.json")
        )
        content = json.loads(summary.read_text())
        assert content["sloppy"] is sloppy
        assert ("Sloppy" in content) is sloppy
    found = group_level(tmp_path)
    for rows in (found.parameters, found.qc):
        marks = {(row["participant_id"], row["sloppy"]) for row in rows}
        assert marks == {("sub-01", True), ("sub-02", False)}
        assert "Sloppy" not in rows[0]
    for table in ("group_parameters", "group_qc"):
        assert "sloppy" in json.loads((tmp_path / f"{table}.json").read_text())


def test_parameters_without_param_label_are_there_by_their_name(cohort):
    rows = group_level(cohort[0]).parameters
    (row,) = select(rows, participant_id="sub-02", parameter="t2", region="all")
    assert row["unit"] == "s"


def test_components_are_ordered_by_the_first_parameter_whatever_their_labels(tmp_path):
    def ordered(subject, permutation):
        result = make_result(run=make_run(subject=subject))
        chances = result.posterior.responsibilities
        chances[:] = chances.clone()[:, permutation]
        write_result(result, tmp_path, provenance=PROVENANCE)

    ordered("01", [0, 1, 2])
    ordered("02", [2, 0, 1])
    rows = group_level(tmp_path).parameters
    one, two = (
        [row for row in select(rows, participant_id=f"sub-{subject}", parameter="msd")
         if row["region"].startswith("component")]
        for subject in ("01", "02")
    )  # fmt: skip
    assert [row["region"] for row in one] == ["component-1", "component-2", "component-3"]
    assert [row["mean"] for row in one] == sorted(row["mean"] for row in one)
    assert [row["mean"] for row in one] == [row["mean"] for row in two]
    assert [row["label"] for row in one] == ["C1", "C2", "C3"]
    assert [row["label"] for row in two] == ["C2", "C3", "C1"]


def test_the_parts_make_the_whole_and_small_components_are_pooled(tmp_path):
    result = make_result(shape=(9, 9, 9))
    posterior = result.posterior
    posterior.unexpected[:] = 0
    posterior.unexpected[10:30] = 0.9
    posterior.responsibilities[:] = torch.tensor([0.1, 0.8, 0.1])
    posterior.responsibilities[40:43] = torch.tensor([0.8, 0.1, 0.1])  # under 1 %
    posterior.responsibilities[50:150] = torch.tensor([0.1, 0.1, 0.8])
    write_result(result, tmp_path, provenance=PROVENANCE)
    rows = select(group_level(tmp_path).parameters, parameter="msk")
    parts = {row["region"]: row for row in rows if row["segmentation"] == "components"}
    assert set(parts) == {"component-1", "component-2", "component-minor", "unexpected"}
    assert parts["unexpected"]["n_voxels"] == 20
    assert (parts["component-minor"]["n_voxels"], parts["component-minor"]["label"]) == (3, "C1")
    (whole,) = select(rows, region="all")
    assert sum(part["n_voxels"] for part in parts.values()) == whole["n_voxels"]


def test_an_atlas_on_the_native_grid_gives_a_row_per_label(cohort, tmp_path):
    out_dir, (result, _) = cohort
    labels = np.zeros(result.grid.shape, int)
    labels[:, :3], labels[:, 3:] = 1, 2
    found = group_level(out_dir, atlases=[write_atlas(tmp_path / "atlas", labels)])
    assert found.problems == []
    rows = select(found.parameters, segmentation="Halves", participant_id="sub-01")
    lower, upper, elsewhere = select(rows, parameter="msd")
    assert [row["region"] for row in (lower, upper, elsewhere)] == ["Lower", "Upper", "Elsewhere"]
    inside = labels[result.mask] == 1
    inside &= ~np.isin(result.posterior.status, FAILED)
    assert lower["n_voxels"] == inside.sum()
    assert lower["mean"] == pytest.approx(result.posterior.mean[:, 0].numpy()[inside].mean(), 1e-5)
    # A label without voxels keeps its row, so that tables are complete.
    assert (elsewhere["n_voxels"], elsewhere.get("mean")) == (0, None)


def test_an_atlas_in_a_standard_space_uses_the_resampled_maps(cohort, tmp_path):
    out_dir, (result, _) = cohort
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    ones = np.ones((4, 4, 4))
    for kind, value in (("mean", 2e-3), ("std", 1e-4)):
        path = map_path(
            result.run, suffix="dwimap", model="msdki", param="msd", desc=kind,
            space="MNI", resolution="2",
        )  # fmt: skip
        image = nb.Nifti1Image((value * ones).astype(np.float32), affine)
        write_image(out_dir / path, image)
        other = path.with_name(path.name.replace("param-msd", "param-msk"))
        write_image(out_dir / other, image)
    status = map_path(
        result.run, suffix="dseg", model="msdki", desc="status", space="MNI", resolution="2"
    )
    write_image(out_dir / status, nb.Nifti1Image(ones.astype(np.uint8), affine))
    labels = np.zeros((4, 4, 4), int)
    labels[0] = 1
    found = group_level(out_dir, atlases=[write_atlas(tmp_path / "atlas", labels, affine)])
    row = select(found.parameters, segmentation="Halves", parameter="msd", region="Lower")[0]
    assert (row["n_voxels"], row["run"]) == (16, "sub-01_space-ACPC")
    assert row["mean"] == pytest.approx(2e-3)
    # The other participant has no maps there, and that is said.
    assert len(found.problems) == 1
    assert found.problems[0].startswith("sub-02_space-ACPC: the atlas Halves")


def test_an_atlas_in_a_space_of_another_model_alone_is_told_and_the_run_stays(cohort, tmp_path):
    out_dir, (result, _) = cohort
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    ones = nb.Nifti1Image(np.ones((4, 4, 4), np.uint8), affine)
    place = {"space": "MNI", "resolution": "2"}
    mask = map_path(result.run, suffix="mask", desc="gmvae", **place)
    status = map_path(result.run, suffix="dseg", model="bs", desc="status", **place)
    for path in (mask, status):
        write_image(out_dir / path, ones)
    labels = np.ones((4, 4, 4), int)
    found = group_level(out_dir, atlases=[write_atlas(tmp_path / "atlas", labels, affine)])
    assert {row["participant_id"] for row in found.parameters} == {"sub-01", "sub-02"}
    assert all("the atlas Halves is on the grid of neither" in text for text in found.problems)


def test_an_atlas_without_table_has_numbers_for_names(cohort, tmp_path):
    out_dir, (result, _) = cohort
    atlas = write_atlas(tmp_path / "a", np.full(result.grid.shape, 4), name="mine")
    image, table = atlas.split("+")
    (tmp_path / "a" / "mine.tsv").rename(tmp_path / "a" / "moved.tsv")
    found = group_level(out_dir, atlases=[image])
    rows = select(found.parameters, segmentation="mine", parameter="msd")
    assert [(row["region"], row["label"]) for row in rows] == [("4", "4")]
    (tmp_path / "a" / "moved.tsv").rename(table)
    found = group_level(out_dir, atlases=[image])
    rows = select(found.parameters, segmentation="mine", parameter="msd")
    assert [row["region"] for row in rows] == ["4", "Lower", "Upper", "Elsewhere"]


def test_the_tables_on_disk_are_the_rows_and_every_column_is_explained(cohort):
    out_dir, _ = cohort
    found = group_level(out_dir)
    for name, rows in (("group_parameters", found.parameters), ("group_qc", found.qc)):
        table = read_tsv(out_dir / f"{name}.tsv")
        dictionary = json.loads((out_dir / f"{name}.json").read_text())
        assert len(table) == len(rows)
        assert set(table[0]) <= dictionary.keys()
        assert all(entry["Description"] for entry in dictionary.values())
    assert list(read_tsv(out_dir / "group_parameters.tsv")[0]) == list(COLUMNS)
    assert {path.name for path in found.written} == {
        "group_parameters.tsv", "group_parameters.json", "group_qc.tsv", "group_qc.json",
    }  # fmt: skip


def test_a_run_that_stands_apart_is_flagged(tmp_path):
    for index in range(7):
        result = make_result(seed=index, run=make_run(subject=f"{index:02d}"))
        if index == 3:
            result.posterior.residual[:] *= 4
        write_result(result, tmp_path, provenance=PROVENANCE)
    rows = group_level(tmp_path).qc
    flagged = [row for row in rows if "residual_rms" in (row["outlier_measures"] or "")]
    assert [row["participant_id"] for row in flagged] == ["sub-03"]
    assert flagged[0]["outlier"] is True
    assert flagged[0]["z_residual_rms"] > 3


def test_the_mask_of_a_later_call_changes_no_table(cohort, tmp_path):
    out_dir, (result, _) = cohort
    labels = np.ones(result.grid.shape, int)
    atlas = write_atlas(tmp_path / "atlas", labels)
    before = group_level(out_dir, atlases=[atlas]).parameters
    mask = out_dir / map_path(result.run, suffix="mask", desc="gmvae")
    write_image(mask, result.grid.image(np.ones(result.grid.shape, np.uint8)))
    assert group_level(out_dir, atlases=[atlas]).parameters == before


def test_a_run_whose_second_mapping_was_interrupted_is_left_out_and_named(cohort, monkeypatch):
    out_dir, (result, _) = cohort
    group_level(out_dir)
    with monkeypatch.context() as patch:
        patch.setattr(derivatives, "write_tsv", interrupt)
        with pytest.raises(KeyboardInterrupt):  # of other maps: of the same it would do no harm
            write_result(result, out_dir, provenance={**PROVENANCE, "sloppy": True})
    found = group_level(out_dir)
    assert {row["participant_id"] for row in found.parameters} == {"sub-02"}
    assert {row["participant_id"] for row in found.qc} == {"sub-02"}
    (problem,) = found.problems
    assert re.search(r"sub-01/.*_model-msdki_desc-qc.json is missing, .* Map the run", problem)
    write_result(result, out_dir, provenance=PROVENANCE)
    assert group_level(out_dir).problems == []


def test_runs_that_are_left_out_are_told_even_if_no_other_is_there(tmp_path, caplog):
    result = make_result()
    write_result(result, tmp_path, provenance=PROVENANCE)
    path = map_path(result.run, suffix="", model="msdki", desc="qc", extension=".json")
    (tmp_path / path).unlink()
    with pytest.raises(NothingEligibleError, match="holds no mapped run"):
        group_level(tmp_path)
    assert f"{path.as_posix()} is missing" in caplog.text


def test_a_run_whose_map_is_cut_off_is_left_out_and_named(cohort):
    out_dir, (result, _) = cohort
    path = out_dir / map_path(result.run, suffix="dwimap", model="msdki", param="msd", desc="mean")
    path.write_bytes(path.read_bytes()[:-20])
    (problem,) = group_level(out_dir).problems
    assert "model-msdki_desc-qc.json is left out" in problem


def test_a_damaged_run_is_left_out_and_named(cohort):
    out_dir, (result, _) = cohort
    mean = map_path(result.run, suffix="dwimap", model="msdki", param="msd", desc="mean")
    (out_dir / mean).unlink()
    found = group_level(out_dir)
    assert {row["participant_id"] for row in found.parameters} == {"sub-02"}
    assert re.search(r"model-msdki_desc-qc.json is left out: .*param-msd", found.problems[0])


def test_an_empty_dataset_is_told_in_a_sentence(tmp_path):
    with pytest.raises(NothingEligibleError, match="holds no mapped run"):
        group_level(tmp_path)


@pytest.mark.parametrize("damage", ["absent image", "absent table", "columns", "dimensions"])
def test_an_unusable_atlas_is_told_in_a_sentence(cohort, tmp_path, damage):
    out_dir, _ = cohort
    labels = np.ones((2, 2, 2, 2) if damage == "dimensions" else (2, 2, 2))
    atlas = write_atlas(tmp_path / "a", labels)
    image, table = atlas.split("+")
    if damage == "columns":
        write_tsv(tmp_path / "a" / "tpl-X_atlas-Halves_dseg.tsv", [{"id": 1, "label": "x"}])
    text = {"absent image": f"no{image}+{table}", "absent table": f"{image}+no.tsv"}.get(
        damage, atlas
    )
    with pytest.raises(InputError, match=r"does not exist|index and name|4 dimensions"):
        group_level(out_dir, atlases=[text])
