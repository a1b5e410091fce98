"""Nodes that write into the output dataset."""

from __future__ import annotations

from pathlib import Path

from nipype.pipeline import engine as pe

from bids_gmvae.interfaces import left_alone


class SinkNode(pe.Node):
    """A node of a `SinkInterface`: done only while all that it read and wrote is as it was."""

    def is_cached(self, rm_outdated: bool = False) -> tuple[bool, bool]:
        """Tell whether the node ran before, and whether its results are up to date."""
        cached, updated = super().is_cached(rm_outdated)
        # With ``overwrite``, nobody wants to know.
        return cached, updated and not self.overwrite and left_alone(Path(self.output_dir()))
