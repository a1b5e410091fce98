"""The Nipype graphs: participant, run, fit."""

from bids_gmvae.workflows.base import init_gmvae_wf, init_participant_wf
from bids_gmvae.workflows.dwi import init_dwi_derivatives_wf, init_dwi_wf
from bids_gmvae.workflows.estimation import init_estimation_wf
from bids_gmvae.workflows.plan import LeftOut, Plan, PlannedRun

__all__ = [
    "LeftOut",
    "Plan",
    "PlannedRun",
    "init_dwi_derivatives_wf",
    "init_dwi_wf",
    "init_estimation_wf",
    "init_gmvae_wf",
    "init_participant_wf",
]
