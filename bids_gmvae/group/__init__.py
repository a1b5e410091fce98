"""The group level: tables over all participants."""

from bids_gmvae.group.tables import GroupResult, group_level

__all__ = ["GroupResult", "group_level"]
