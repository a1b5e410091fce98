import torch

from bids_gmvae.estimators.residuals import status_of
from bids_gmvae.posterior import Status


def test_of_several_findings_the_gravest_is_the_status():
    yes, no = torch.tensor(True), torch.tensor(False)
    findings = [  # usable, converged, at a bound, unidentified
        (yes, yes, no, no, Status.FITTED),
        (yes, yes, no, yes, Status.UNIDENTIFIED),
        (yes, yes, yes, yes, Status.AT_BOUND),
        (yes, no, yes, yes, Status.NOT_CONVERGED),
        (no, no, yes, yes, Status.NOT_FINITE),
    ]
    *columns, expected = zip(*findings, strict=True)
    assert status_of(*map(torch.stack, columns)).tolist() == list(expected)
