"""Nipype's view of the functions of this package: one thin interface per stage."""

from bids_gmvae.interfaces.base import SinkInterface, left_alone
from bids_gmvae.interfaces.checking import CheckRun
from bids_gmvae.interfaces.derivatives import WriteDerivatives
from bids_gmvae.interfaces.estimation import FitRuns
from bids_gmvae.interfaces.extraction import ExtractVoxels
from bids_gmvae.interfaces.masking import ComputeMask
from bids_gmvae.interfaces.prior import StartPrior, SumContributions, UpdatePrior
from bids_gmvae.interfaces.reporting import DrawReportlets
from bids_gmvae.interfaces.standard import ResampleToTemplate

__all__ = [
    "CheckRun",
    "ComputeMask",
    "DrawReportlets",
    "ExtractVoxels",
    "FitRuns",
    "ResampleToTemplate",
    "SinkInterface",
    "StartPrior",
    "SumContributions",
    "UpdatePrior",
    "WriteDerivatives",
    "left_alone",
]
