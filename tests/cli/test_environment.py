import os
import tempfile

import pytest

from bids_gmvae.cli.environment import prepare_environment
from bids_gmvae.config import RunSettings


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """Give the environment of a user without caches of their own, as the app changes it."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {"HOME": str(home), "USER": "someone"}
    monkeypatch.setattr(os, "environ", environment)

    def prepare():
        prepare_environment(RunSettings(tmp_path, tmp_path, "participant"), tmp_path / "cache")
        return environment

    return prepare


def test_templates_are_not_downloaded_into_home(prepared, tmp_path):
    assert prepared()["TEMPLATEFLOW_HOME"] == str(tmp_path / "cache" / "templateflow")


def test_templates_that_the_user_has_are_used(prepared, tmp_path):
    (tmp_path / "home/.cache/templateflow").mkdir(parents=True)
    assert "TEMPLATEFLOW_HOME" not in prepared()


def test_what_is_compiled_outlives_the_work_directory(prepared, tmp_path):
    assert prepared()["NUMBA_CACHE_DIR"] == str(tmp_path / "home/.cache/bids_gmvae/numba")


def test_without_a_home_what_is_compiled_is_kept_in_the_work_directory(prepared, tmp_path):
    os.environ["HOME"] = os.devnull
    assert prepared()["NUMBA_CACHE_DIR"] == str(tmp_path / "cache" / "numba")


def test_in_a_container_what_is_compiled_is_kept_in_the_work_directory(prepared, tmp_path):
    os.environ["BIDS_GMVAE_CONTAINER_TYPE"] = "docker"
    assert prepared()["NUMBA_CACHE_DIR"] == str(tmp_path / "cache" / "numba")


def test_temporary_files_go_to_the_work_directory_if_they_cannot_go_elsewhere(
    prepared, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [os.devnull])
    assert prepared()["TMPDIR"] == str(tmp_path / "cache" / "tmp")


def test_the_user_may_keep_what_is_compiled_elsewhere(prepared):
    os.environ["NUMBA_CACHE_DIR"] = "/elsewhere"
    assert prepared()["NUMBA_CACHE_DIR"] == "/elsewhere"
