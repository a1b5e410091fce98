"""Modalities by name: how runs are found, read and checked."""

from bids_gmvae.modalities import dwi

#: A new modality is a module with the functions of `dwi`, plus a line here.
MODALITIES = {"dwi": dwi}
