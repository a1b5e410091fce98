"""Checks of voxels: what is broken is found, what is only odd is not."""

import numpy as np
import pytest
import torch

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.config import ModelSettings, RunSettings
from bids_gmvae.io.images import open_image
from bids_gmvae.io.volumes import read_rows
from bids_gmvae.masking import read_mask
from bids_gmvae.modalities.dwi import check_data, find_runs, read_acquisition
from bids_gmvae.modalities.dwi_gradients import _VARIANTS, check_gradients
from bids_gmvae.modalities.dwi_labels import check_labels
from bids_gmvae.voxels import Grid
from tests.bids_tree import directions

SETTINGS = ModelSettings()
CUBE = (1.0, 1.0, 1.0)


def tissue(bvals):
    """Mean signal of a brain: tissue and some free water, s/mm^2."""
    bvals = np.asarray(bvals, dtype=float)
    rates = {0.55: 1.1e-3, 0.3: 0.25e-3, 0.15: 3e-3}
    return sum(share * np.exp(-rate * bvals) for share, rate in rates.items())


def acquisition_of(bvals, bvecs=None, **columns):
    bvals = torch.tensor(np.asarray(bvals, dtype=float))
    bvecs = directions(len(bvals)) if bvecs is None else bvecs
    return Acquisition(bvals=bvals, bvecs=torch.from_numpy(np.array(bvecs)), **columns)


def codes(issues):
    return [(issue.severity, issue.code) for issue in issues]


class TestValues:
    BVALS = np.array([0, 0, *[1000] * 8, *[2000] * 8])

    @pytest.fixture
    def data(self):
        noise = np.random.default_rng(0).normal(1, 0.02, (6, 6, 6, len(self.BVALS)))
        return (100 * tissue(self.BVALS) * noise).astype("f4")

    def check(self, data, **options):
        mask = np.ones(data.shape[:3], dtype=bool)
        options = {"directional": False, "voxel_size": CUBE} | options
        return check_data(data[mask], mask, acquisition_of(self.BVALS), SETTINGS, **options)

    def test_sound_data_have_no_issue(self, data):
        assert self.check(data, directional=True) == []

    def test_a_volume_of_nan_is_an_error_and_some_voxels_are_a_warning(self, data):
        data[0, 0, :2, 3] = np.nan
        (issue,) = self.check(data, directional=True)
        assert codes([issue]) == [("warning", "not_finite")]
        assert "2 of 216 voxels" in issue.text
        data[..., 5] = np.nan
        (issue,) = self.check(data)
        assert codes([issue]) == [("error", "volume_not_finite")]
        assert "volume 5 (counted from 0)" in issue.text

    def test_a_constant_volume_is_an_error(self, data):
        data[..., [4, 7]] = 0
        (issue, *_) = self.check(data)
        assert codes([issue]) == [("error", "volume_constant")]
        assert "volumes 4, 7" in issue.text
        assert "volume 4 are 0" in issue.text

    def test_a_volume_of_negative_signals_is_the_one_finding(self, data):
        data[..., 5] *= -1
        (issue,) = self.check(data, directional=True)
        assert codes([issue]) == [("error", "volume_negative")]
        assert "volume 5 (counted from 0) do not: the mean of volume 5" in issue.text

    def test_a_negative_b0_is_no_fault_of_the_mask(self, data):
        data[..., 0] *= -1
        assert codes(self.check(data)) == [("error", "volume_negative")]

    def test_values_that_interpolation_made_negative_are_data(self, data):
        data[np.random.default_rng(2).random(data.shape) < 0.002] = -0.5
        (issue,) = self.check(data)
        assert codes([issue]) == [("info", "zeros")]
        assert "are 0 or less in some weighted volumes; these values are kept" in issue.text

    def test_zeros_at_high_b_are_data_but_voxels_without_any_signal_are_named(self, data):
        data[0, 0, :, 12] = 0
        assert codes(self.check(data)) == [("info", "zeros")]
        data[1, :, :, 2:] = 0
        warning, info = self.check(data)
        assert codes([warning, info]) == [("warning", "no_weighted_signal"), ("info", "zeros")]
        assert "36 of 216" in warning.text
        assert "6 of 216 voxels of the mask (2.8%)" in info.text

    def test_voxels_outside_the_mask_do_not_matter(self, data):
        mask = np.ones(data.shape[:3], dtype=bool)
        mask[0] = False
        data[0] = np.nan
        options = {"directional": True, "voxel_size": CUBE}
        assert check_data(data[mask], mask, acquisition_of(self.BVALS), SETTINGS, **options) == []


@pytest.mark.parametrize("fault", [np.nan, 0, -1])
@pytest.mark.parametrize("factor", [0.8, 0.5])
def test_a_dropout_is_named_beside_a_volume_without_signal(fault, factor):
    bvals = np.repeat([0, 1000, 2000], [4, 30, 30])
    noise = np.random.default_rng(0).normal(1, 0.02, (6, 6, 6, len(bvals)))
    data = 100 * tissue(bvals) * noise
    data[..., 5] *= fault
    data[..., 12] *= factor
    mask = np.ones(data.shape[:3], dtype=bool)
    options = {"directional": False, "voxel_size": CUBE}
    error, warning = check_data(data[mask], mask, acquisition_of(bvals), SETTINGS, **options)
    assert (error.severity, warning.severity) == ("error", "warning")
    assert "volume 5 (counted from 0)" in error.text
    assert "volume 12 (" in warning.text


class TestLabels:
    MULTI = (*[0] * 4, *[500] * 6, *[1000] * 15, *[2000] * 15, *[3000] * 30)
    SCHEMES = (
        MULTI,
        (0, *[1000] * 12),
        (0, *[b for b in range(200, 3001, 200) for _ in range(6)]),
        (0, 10, 20, 30, 50, 80, 100, 150, 200, 300, 400, 500, 600, 700, 800),
        (0, 1, 1, 10, 10, 25, 100, 100, *[200] * 6, *[400] * 8, *[600] * 12),
        (0, 5, *[b for b in range(300, 8000, 400) for _ in range(3)]),
    )

    def check(self, bvals, true_bvals=None, *, spread=0.03, floor=0.05, **columns):
        rng = np.random.default_rng(1)
        means = tissue(bvals if true_bvals is None else true_bvals)
        means = np.hypot(means, floor) * np.exp(spread * rng.normal(size=len(means)))
        usable = np.ones(len(means), dtype=bool)
        return check_labels(means, acquisition_of(bvals, **columns), usable, SETTINGS)

    @pytest.mark.parametrize("bvals", SCHEMES)
    @pytest.mark.parametrize("floor", [0.0, 0.05, 0.15])
    def test_sound_schemes_pass_even_at_the_noise_floor(self, bvals, floor):
        assert self.check(bvals, floor=floor) == []

    @pytest.mark.parametrize("bvals", SCHEMES[:3])
    def test_a_table_in_reversed_order_is_an_error(self, bvals):
        (issue,) = self.check(bvals, bvals[::-1])
        assert issue.severity == "error"
        assert "belong to other volumes" in issue.hint

    def test_single_wrong_labels_are_warnings_that_say_what_the_signal_looks_like(self):
        labels = [0, *[2000] * 4, 300, *[2000] * 4, 600, *[2000] * 5]
        (issue,) = self.check(labels, [0, *[2000] * 15])
        assert issue.severity == "warning"
        assert "2 of 16 volumes" in issue.text
        assert "volume 5 (b = 300) has the signal of b = 2000 s/mm^2" in issue.text
        assert "volume 10 (b = 600) has the signal of b = 2000 s/mm^2" in issue.text

    def test_a_volume_unlike_its_shell_is_found(self):
        true = list(self.MULTI)
        true[20] = 0
        (issue,) = self.check(self.MULTI, true)
        assert "1 of 70 volumes" in issue.text
        assert "volume 20 (b = 1000) has the signal of b = 0" in issue.text

    def test_a_weighted_volume_labelled_as_the_only_b0_is_an_error(self):
        (issue,) = self.check([0, *[1000] * 12], [1000] * 12 + [0])
        assert issue.severity == "error"

    @pytest.mark.parametrize("seed", range(8))
    def test_coherent_fibres_do_not_contradict_the_table(self, seed):
        bvals = np.repeat([0, 1000, 2000, 3000], [2, 10, 10, 10])
        fibre = np.random.default_rng(seed).normal([0, 0, 2], 1)
        along = (directions(len(bvals)) @ fibre / np.linalg.norm(fibre)) ** 2
        means = np.exp(-bvals * (0.3e-3 + 1.2e-3 * along))
        usable = np.ones(len(bvals), dtype=bool)
        assert check_labels(means, acquisition_of(bvals), usable, SETTINGS) == []

    def test_volumes_are_compared_within_their_echo_time(self):
        bvals = np.array([0, 1000, 1000, 1000, 1000] * 2)
        times = torch.tensor([0.06] * 5 + [0.2] * 5)
        means = tissue(bvals) * np.exp(-times.numpy() / 0.08)
        usable = np.ones(10, dtype=bool)
        acquisition = acquisition_of(bvals, echo_times=times)
        assert check_labels(means, acquisition, usable, SETTINGS) == []
        means[7] = means[5]
        (issue,) = check_labels(means, acquisition, usable, SETTINGS)
        assert "volume 7 (b = 1000) has the signal of b = 0" in issue.text


class TestGradients:
    BVALS = np.array([0.0, *[1000.0] * 30])

    @pytest.fixture
    def bundles(self):
        """Straight bundles of random orientation and limited width: data and mask."""
        rng = np.random.default_rng(4)
        shape = (24, 24, 24)
        grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
        fibre = np.zeros((len(grid), 3))
        for axis in directions(60, 7):
            offset = grid - rng.uniform(0, 24, 3)
            along = offset @ axis
            inside = (np.linalg.norm(offset - along[:, None] * axis, axis=1) < 2) & (
                np.abs(along) < 9
            )
            fibre[inside] = axis
        tensor = 0.7e-3 * np.eye(3) + 0.0 * fibre[:, :, None]
        anisotropic = fibre.any(axis=1)
        tensor[anisotropic] = 0.3e-3 * np.eye(3)
        tensor = tensor + 1.4e-3 * fibre[:, :, None] * fibre[:, None, :]
        bvecs = directions(len(self.BVALS), 2)
        exponent = np.einsum("mi,vij,mj->vm", bvecs, tensor, bvecs)
        signals = np.exp(-self.BVALS * exponent)
        data = (signals + rng.normal(0, 0.02, signals.shape)).reshape(*shape, -1)
        return data.astype("f4"), np.ones(shape, dtype=bool), bvecs

    def check(self, bundles, bvecs):
        data, mask, _ = bundles
        usable = np.ones(len(self.BVALS), dtype=bool)
        signals = data[mask]
        return check_gradients(signals, mask, self.BVALS, bvecs, usable, 100.0, voxel_size=CUBE)

    def test_the_right_table_passes(self, bundles):
        assert self.check(bundles, bundles[2]) == []

    @pytest.mark.parametrize(
        ("order", "flip", "text"),
        [
            ((0, 1, 2), (-1, 1, 1), "component i negated"),
            ((0, 1, 2), (1, 1, -1), "component k negated"),
            ((1, 0, 2), (1, 1, 1), "components taken in the order j, i, k"),
        ],
    )
    def test_a_changed_table_is_found_with_the_change_that_repairs_it(
        self, bundles, order, flip, text
    ):
        (issue,) = self.check(bundles, bundles[2][:, order] * flip)
        assert issue.severity == "warning"
        assert issue.text.endswith(f"{text}.")

    def test_isotropic_data_and_too_few_directions_say_nothing(self, bundles):
        data, mask, bvecs = bundles
        flat = (data, np.zeros_like(mask), bvecs)
        assert self.check(flat, bvecs * [-1, 1, 1]) == []
        few = np.tile(bvecs[:3], (11, 1))[: len(bvecs)]
        assert self.check(bundles, few) == []

    def test_every_variant_is_another_table_up_to_sign(self):
        vectors = directions(4)
        tables = {
            tuple(np.round(np.outer(v[0], v[0]), 9).ravel())
            for v in (vectors[:, order] * flip for order, flip in _VARIANTS)
        }
        assert len(tables) == len(_VARIANTS) == 24


def real_run(real_data, folder, tmp_path, index=0):
    runs, _ = find_runs(RunSettings(real_data / folder, tmp_path, "participant"))
    run = runs[index]
    acquisition, _ = read_acquisition(run)
    image = open_image(run.image)
    mask = read_mask(run.companions["mask"], Grid.of(image))
    b0 = acquisition.bvals.numpy() <= 100
    rows = read_rows(image, mask, b0, tmp_path / "signals.f32")
    mask[mask] = rows.supported
    return rows.signals[rows.supported], mask, acquisition, image.header.get_zooms()[:3]


@pytest.mark.real_data
class TestRealData:
    @pytest.mark.parametrize(
        "folder",
        [
            "01_cfin_multishell_brain",
            "02_canon_singleshell_brain",
            "03_mrtrix_msmt_qsiprep_like",
            "04_leg_ivim_dti",
            "07_problem_cases/ds000114_truncated",
        ],
    )
    def test_real_series_pass_and_a_flipped_table_is_noticed(self, real_data, tmp_path, folder):
        rows, mask, acquisition, size = real_run(real_data, folder, tmp_path)
        issues = check_data(rows, mask, acquisition, SETTINGS, directional=True, voxel_size=size)
        assert {issue.severity for issue in issues} <= {"info"}
        flipped = acquisition_of(acquisition.bvals, acquisition.bvecs.numpy() * [-1, 1, 1])
        issues = check_data(rows, mask, flipped, SETTINGS, directional=True, voxel_size=size)
        found = any(issue.code == "gradient_frame" for issue in issues)
        # Muscle in thick slices has no coherence that could tell.
        assert found == ("leg" not in folder)

    def test_zeros_of_free_water_are_counted(self, real_data, tmp_path):
        rows, mask, acquisition, size = real_run(real_data, "01_cfin_multishell_brain", tmp_path)
        options = {"directional": False, "voxel_size": size}
        (issue,) = check_data(rows, mask, acquisition, SETTINGS, **options)
        assert "(8.6%) are 0 or less in some weighted volumes" in issue.text

    def test_three_counts_more_are_a_floor_that_fluid_shows(self, real_data, tmp_path):
        rows, mask, acquisition, size = real_run(real_data, "01_cfin_multishell_brain", tmp_path)
        options = {"directional": False, "voxel_size": size}
        issues = check_data(rows + 3, mask, acquisition, SETTINGS, **options)
        assert codes(issues) == [("warning", "noise_floor")]

    def test_relabelled_volumes_are_named(self, real_data, tmp_path):
        folder = "07_problem_cases/bvals_relabelled_philips"
        rows, mask, acquisition, size = real_run(real_data, folder, tmp_path)
        options = {"directional": False, "voxel_size": size}
        issues = check_data(rows, mask, acquisition, SETTINGS, **options)
        (issue,) = [issue for issue in issues if issue.severity != "info"]
        assert codes([issue]) == [("warning", "bvals_contradict_signal")]
        assert "volume 5 (b = 300) has the signal of b = 2000" in issue.text
        assert "volume 10 (b = 600) has the signal of b = 2000" in issue.text
