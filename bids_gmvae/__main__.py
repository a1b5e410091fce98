"""Run the app as ``python -m bids_gmvae``."""

from bids_gmvae.cli.run import entry

if __name__ == "__main__":
    entry()
