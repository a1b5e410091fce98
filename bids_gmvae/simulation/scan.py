"""A simulated scan: the images of a head, on a grid of a chosen orientation."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nb
import numpy as np
import torch
from numpy.typing import NDArray

from bids_gmvae.acquisition import Acquisition
from bids_gmvae.io.gradients import world_to_image
from bids_gmvae.simulation.noise import add_rician_noise, simulate_signals
from bids_gmvae.simulation.phantom import Phantom

#: Intensity of white matter without weighting and without noise, in the units of the images.
WHITE_MATTER = 1000.0


@dataclass(frozen=True)
class Frame:
    """The axes along which voxels are stored.

    Attributes
    ----------
    axes : str
        Where the voxel indices grow to, e.g. ``"LPS"``.
    affine : array of shape (4, 4)
        Of the phantom, whose axes are right, anterior, superior.
    """

    axes: str
    affine: NDArray[np.float64]

    def image(self, data: NDArray, *, repetition_time: float = 0.0) -> nb.Nifti1Image:
        """Store an array on the phantom's grid along these axes.

        Parameters
        ----------
        data : array of shape (x, y, z) or (x, y, z, n_volumes)
            Along right, anterior, superior.
        repetition_time : float
            Written into the header of 4-D images, s.
        """
        image = nb.Nifti1Image(data, self.affine)
        image.set_sform(self.affine, code=1)
        image.set_qform(self.affine, code=1)
        turn = nb.orientations.ornt_transform(
            nb.orientations.axcodes2ornt("RAS"), nb.orientations.axcodes2ornt(self.axes)
        )
        image = image.as_reoriented(turn)
        image.header.set_xyzt_units("mm", "sec")
        if data.ndim == 4:
            image.header["pixdim"][4] = repetition_time
        return image

    def vectors(self, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Express vectors (..., 3), given in world axes, along the image axes."""
        empty = np.empty((1, 1, 1), dtype=np.uint8)
        # Adding 0 turns -0 into 0.
        return world_to_image(vectors, self.image(empty).affine) + 0.0


def scan(
    phantom: Phantom,
    acquisition: Acquisition,
    *,
    sigma: NDArray[np.float64],
    generator: torch.Generator,
    background: bool,
) -> NDArray[np.float32]:
    """Simulate the measurement of a head.

    Parameters
    ----------
    phantom : Phantom
        The head.
    acquisition : Acquisition
        Settings; directions in world axes.
    sigma : array, 3-D
        Standard deviation of the noise in each channel, in units of the image.
    generator : torch.Generator
        Source of randomness.
    background : bool
        Whether voxels outside the brain hold noise; else they are zero.

    Returns
    -------
    array of shape (*phantom.mask.shape, n_measurements)
        Magnitudes; white matter without weighting is about `WHITE_MATTER`.
    """
    n_measurements = len(acquisition)
    images = np.zeros((*phantom.mask.shape, n_measurements), dtype=np.float32)
    rows = np.full(phantom.mask.shape, -1)
    rows[phantom.mask] = np.arange(int(phantom.mask.sum()))
    has_directions = "bvecs" in acquisition
    # One slice at a time, so that a whole brain needs little more memory than its images.
    for index in range(phantom.mask.shape[2]):
        brain = phantom.mask[..., index]
        row = torch.from_numpy(rows[..., index][brain])
        noise = torch.from_numpy(sigma[..., index])
        images[brain, index] = simulate_signals(
            phantom.population.model,
            acquisition,
            phantom.values[row],
            orientation=phantom.orientation[row] if has_directions else None,
            anisotropy=phantom.anisotropy[row],
            s0=WHITE_MATTER * phantom.s0[row],
            sigma=noise[torch.from_numpy(brain)],
            generator=generator,
        ).numpy()
        if background:
            air = noise[torch.from_numpy(~brain)]
            silence = torch.zeros(len(air), n_measurements, dtype=torch.float64)
            images[~brain, index] = add_rician_noise(silence, air, generator).numpy()
    return images
