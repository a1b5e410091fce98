"""Draw the picture of the README from a simulated scan with known truth.

Usage: bids-gmvae-simulate sim --n-subjects 1 --scheme short --snr 20 --voxel-size 2.5 --slices 3
       bids-gmvae sim out participant
       python docs/images/overview.py sim out docs/images/overview.png
"""

import sys
from pathlib import Path

import matplotlib as mpl
import nibabel as nb
import numpy as np
from matplotlib.figure import Figure

PARAMETERS = {
    "msd": ("Mean diffusivity\n(10⁻³ mm²/s)", 1e3, (0.5, 2.0), (0, 0.15)),
    "msk": ("Mean kurtosis", 1, (0.2, 1.4), (0, 0.15)),
}
COLUMNS = {
    "truth": "truth",
    "lsq": "voxelwise fit",
    "mean": "bids_gmvae",
    "std": "standard deviation",
    "priorinfluence": "prior influence",
}


def main(simulated, mapped, target):
    """Draw one slice of every map."""
    mpl.rcParams["font.size"] = 12
    figure = Figure(figsize=(12.5, 6.2), layout="constrained", facecolor="white")
    axes = figure.subplots(len(PARAMETERS), len(COLUMNS))
    truth = Path(simulated) / "derivatives" / "truth" / "sub-01" / "dwi"
    dwi = Path(mapped) / "sub-01" / "dwi"
    mask = load(next(dwi.glob("*_desc-gmvae_mask.nii.gz"))) > 0
    middle = mask.shape[2] // 2
    for row, (parameter, (label, factor, window, spread)) in zip(
        axes, PARAMETERS.items(), strict=True
    ):
        for axis, (statistic, title) in zip(row, COLUMNS.items(), strict=True):
            folder = truth if statistic == "truth" else dwi
            name = f"*param-{parameter}_desc-{statistic}_dwimap.nii.gz"
            data = load(next(folder.glob(name)))
            scale = 1 if statistic == "priorinfluence" else factor
            data = np.where(mask, data * scale, np.nan)[:, :, middle]
            low, high = {"std": spread, "priorinfluence": (0, 1)}.get(statistic, window)
            colours = {"std": "magma", "priorinfluence": "cividis"}.get(statistic, "viridis")
            shown = axis.imshow(np.rot90(data), cmap=colours, vmin=low, vmax=high)
            axis.set_axis_off()
            figure.colorbar(shown, ax=axis, shrink=0.75, pad=0.02, ticks=[low, high])
            if parameter == "msd":
                axis.set_title(title)
        row[0].text(-0.12, 0.5, label, transform=row[0].transAxes, rotation=90, va="center",
                    ha="center")  # fmt: skip
    figure.savefig(target, dpi=88, metadata={"Software": None})


def load(path):
    """Give the voxels of an image."""
    return np.asarray(nb.load(path).dataobj)


if __name__ == "__main__":
    main(*sys.argv[1:])
