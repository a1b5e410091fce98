"""What the server also imports if figures are going to be drawn; see `preload`.

Without a cache, matplotlib looks for all fonts of the machine: nobody waits for it who draws none.
"""

from bids_gmvae.cli.preload import preload

MODULES = ("bids_gmvae.report.assemble", "bids_gmvae.report.reportlets")

preload(MODULES)
