import errno
import os

import pytest
from nipype.interfaces.base import Bunch, TraitedSpec
from nipype.pipeline import engine as pe

from bids_gmvae.exceptions import DeviceError, ExitCode, InputError, StorageError
from bids_gmvae.interfaces.base import InputSpec, RunInterface, read_failure


class Failing(RunInterface):
    """Raises what it is given."""

    input_spec = InputSpec
    output_spec = TraitedSpec
    error: BaseException = KeyError()

    def _compute(self, folder):
        raise type(self).error


def run_failing(error, folder):
    Failing.error = error
    return pe.Node(Failing(), name="node", base_dir=str(folder)).run()


def run_here(error, folder):
    Failing.error = error
    Failing()._run_interface(Bunch(cwd=str(folder)))


def test_an_error_leaves_message_hint_and_exit_code(tmp_path):
    with pytest.raises(Exception, match="No gradients"):
        run_failing(InputError("No gradients.", "Add a bvec file."), tmp_path)
    assert read_failure(tmp_path / "node") == {
        "message": "No gradients.",
        "hint": "Add a bvec file.",
        "exit_code": int(ExitCode.INVALID_INPUT),
    }


def test_a_full_disk_is_told_as_such(tmp_path):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/out/map.nii.gz")
    with pytest.raises(StorageError, match=r"/out/map\.nii\.gz"):
        run_here(full, tmp_path)
    assert read_failure(tmp_path)["exit_code"] == int(ExitCode.NO_SPACE)


def test_a_full_device_is_told_as_such(tmp_path):
    class OutOfMemoryError(RuntimeError):
        """Named like torch's."""

    with pytest.raises(DeviceError, match="ran out of memory"):
        run_here(OutOfMemoryError("CUDA out of memory"), tmp_path)


def test_a_defect_leaves_no_plain_words(tmp_path):
    with pytest.raises(Exception, match="boom"):
        run_failing(KeyError("boom"), tmp_path)
    assert read_failure(tmp_path / "node") is None
