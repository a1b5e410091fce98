"""What the server imports, once, that all children are forked from; no thread is started by it."""

import gc
import importlib

MODULES = (
    "torch", "nibabel", "bids.layout", "bids_gmvae.interfaces", "bids_gmvae.cli.plan",
    "bids_gmvae.modalities.dwi", "bids_gmvae.estimators", "bids_gmvae.io.validation",
    "bids_gmvae.report.assemble", "bids_gmvae.report.reportlets",
)  # fmt: skip

# All of it stays. To look through it for garbage takes time here, and in each child memory, too:
# what a child touches is copied.
gc.disable()
for name in MODULES:
    importlib.import_module(name)
gc.freeze()
gc.enable()
