"""A fit as a file: plain values, tensors and what they were learnt from, but no code."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bids_gmvae import __version__
from bids_gmvae.exceptions import InputError

#: Version of the layout of the file.
FIT_FORMAT = 3


@dataclass(frozen=True, eq=False)
class SavedFit:
    """What the file of a fit holds.

    Attributes
    ----------
    header : mapping
        Plain values: estimator, signal model, settings, history.
    state : mapping of Tensor
        What was learnt.
    acquisitions : sequence of mapping of Tensor
        Columns of the acquisitions it was learnt from.
    """

    header: Mapping[str, Any]
    state: Mapping[str, Tensor]
    acquisitions: Sequence[Mapping[str, Tensor]] = ()

    def write(self, path: Path) -> None:
        """Write everything, with a checksum."""
        header = json.dumps({"format": FIT_FORMAT, "version": __version__, **self.header})
        state = {name: tensor.detach().cpu() for name, tensor in self.state.items()}
        acquisitions = [
            {name: column.detach().cpu() for name, column in columns.items()}
            for columns in self.acquisitions
        ]
        content = {"header": header, "state": state, "acquisitions": acquisitions}
        # Given a path, torch would put its name into the archive, if it is ASCII.
        buffer = io.BytesIO()
        torch.save({**content, "checksum": _checksum(content)}, buffer)
        path.write_bytes(buffer.getvalue())

    @classmethod
    def read(cls, path: Path) -> SavedFit:
        """Read what `write` wrote, without running any code from it.

        Raises
        ------
        InputError
            If the file is no fit, one of another format, or was changed.
        """
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            header = json.loads(content["header"])
            version = header.get("format")
            intact = version == FIT_FORMAT and content.pop("checksum") == _checksum(content)
        except FileNotFoundError:
            raise InputError(f"The fit {path} does not exist.", "Check --reuse-fit.") from None
        except Exception as error:  # torch raises many kinds for a damaged archive
            raise InputError(
                f"{path} is not a fit of this app, or was damaged.",
                "Give the *_fit.pt of an earlier run to --reuse-fit.",
            ) from error
        if version != FIT_FORMAT:
            raise InputError(
                f"{path} has fit format {version}, this version reads {FIT_FORMAT}.",
                "Fit again without --reuse-fit.",
            )
        if not intact:
            raise InputError(
                f"The fit {path} was changed after it was written: the checksum differs.",
                "Give the *_fit.pt of an earlier run, unchanged, to --reuse-fit.",
            )
        return cls(header, content["state"], content["acquisitions"])


def _checksum(content: Mapping[str, Any]) -> str:
    """Hash text and tensors. The archive's own sums are not verified by torch."""
    digest = hashlib.sha256(content["header"].encode())
    for tensors in (content["state"], *content["acquisitions"]):
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
