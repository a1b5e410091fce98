import errno
import os

import pytest
from nipype.interfaces.base import TraitedSpec
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
        Failing.error = full
        Failing()._run_interface(type("Runtime", (), {"cwd": str(tmp_path)})())
    assert read_failure(tmp_path)["exit_code"] == int(ExitCode.NO_SPACE)


def test_a_full_device_is_told_as_such(tmp_path):
    class OutOfMemoryError(RuntimeError):
        """Named like torch's."""

    Failing.error = OutOfMemoryError("CUDA out of memory")
    with pytest.raises(DeviceError, match="ran out of memory"):
        Failing()._run_interface(type("Runtime", (), {"cwd": str(tmp_path)})())


def test_a_defect_leaves_no_plain_words(tmp_path):
    with pytest.raises(Exception, match="boom"):
        run_failing(KeyError("boom"), tmp_path)
    assert read_failure(tmp_path / "node") is None
