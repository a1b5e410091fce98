"""Quantitative MRI parameter maps with uncertainty, as a BIDS App."""

__version__ = "0.1.0"
