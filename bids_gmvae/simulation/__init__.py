"""Simulated data with known truth: tissue populations, noise, phantom, BIDS dataset."""
