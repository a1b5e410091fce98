"""The manifest where thousands of calls share a dataset."""

import subprocess
import sys
from contextlib import contextmanager
from pathlib import PurePosixPath

import pytest

from bids_gmvae.io import atomic, manifest
from bids_gmvae.io.manifest import dataset_files, read_manifest, write_manifest
from tests.bids_tree import write_tree

FILES = ["README.md", "sub-01.html", "sub-01/ses-1/dwi/a.json", "sub-02.html", "sub-02/dwi/b.json"]


@pytest.fixture
def dataset(tmp_path):
    write_tree(tmp_path, dict.fromkeys(FILES, "x"))
    write_manifest(tmp_path)
    return tmp_path


def listed(out_dir):
    return {row["path"]: row["sha256"] for row in read_manifest(out_dir)}


def test_files_of_other_participants_are_neither_listed_nor_opened(dataset):
    code = (
        "import sys; from pathlib import Path; from bids_gmvae.io.manifest import write_manifest\n"
        "seen = []\n"
        "kinds = {'open', 'os.listdir', 'os.scandir'}\n"
        "sys.addaudithook(lambda kind, args: kind in kinds and seen.append(str(args[0])))\n"
        "write_manifest(Path(sys.argv[1]), ['01'])\n"
        "print(*seen, sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, dataset], capture_output=True, text=True, check=True
    )
    seen = done.stdout.splitlines()
    assert str(dataset / "sub-01" / "ses-1" / "dwi" / "a.json") in seen
    assert not [path for path in seen if "sub-02" in path]
    assert set(listed(dataset)) == set(FILES)


@pytest.fixture
def hashed(monkeypatch):
    """Give what is hashed, and whether that is under the lock."""
    seen = []
    under_lock = False
    digest, locked = manifest._digest, manifest.locked

    def spy(file):
        seen.append((file.name, under_lock))
        return digest(file)

    @contextmanager
    def watched(out_dir):
        nonlocal under_lock
        with locked(out_dir) as held:
            under_lock = True
            yield held
            under_lock = False

    monkeypatch.setattr(manifest, "_digest", spy)
    monkeypatch.setattr(manifest, "locked", watched)
    return seen


@pytest.mark.parametrize("subjects", [None, ["01"], []])
def test_nothing_is_hashed_under_the_lock_or_twice(dataset, hashed, subjects):
    write_manifest(dataset, subjects)
    assert hashed
    assert not [path for path, under_lock in hashed if under_lock]
    assert len(set(hashed)) == len(hashed)


def test_a_file_that_is_replaced_while_the_lock_is_awaited_is_read_again(
    dataset, hashed, monkeypatch
):
    locked = manifest.locked

    @contextmanager
    def late(out_dir):
        with locked(out_dir) as held:
            atomic.write_text(dataset / "sub-01" / "ses-1" / "dwi" / "a.json", "y")
            atomic.write_text(dataset / "sub-01" / "new.json", "y")
            (dataset / "sub-01.html").unlink()
            yield held

    monkeypatch.setattr(manifest, "locked", late)
    write_manifest(dataset, ["01"])
    at_once = (dataset / "manifest.tsv").read_bytes()
    monkeypatch.undo()
    write_manifest(dataset, ["01"])
    assert (dataset / "manifest.tsv").read_bytes() == at_once
    assert sum(under_lock for _, under_lock in hashed) == 2
    assert set(listed(dataset)) == {*FILES, "sub-01/new.json"} - {"sub-01.html"}


def test_processes_that_end_together_give_the_union(tmp_path):
    labels = [f"{i:02d}" for i in range(12)]
    write_tree(tmp_path, {f"sub-{label}/dwi/{i}.json": "x" for label in labels for i in range(5)})
    code = (
        "import sys; from pathlib import Path; from bids_gmvae.io.manifest import write_manifest\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for label in sys.argv[2:]: write_manifest(Path(sys.argv[1]), [label])"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, tmp_path, *labels[i::3]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for i in range(3)
    ]
    for process in processes:
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0, 0, 0]
    union = (tmp_path / "manifest.tsv").read_bytes()
    write_manifest(tmp_path)
    assert (tmp_path / "manifest.tsv").read_bytes() == union
    assert len(listed(tmp_path)) == 60


ODD = ['a "b".txt', "a b.txt", "sub-01.html", "sub-01/dwi-x/a", "sub-01/dwi/a", "sub-01/dwi!/a",
       "sub-01+/a", "sub-01/µ\u2028.json", "sub-1-copy/a", "sub-1/a", "sub-/a"]  # fmt: skip


def test_names_stand_in_the_order_of_their_parts_however_odd(tmp_path):
    write_tree(tmp_path, dict.fromkeys(ODD, "x"))
    content = write_manifest(tmp_path).read_bytes()
    assert list(listed(tmp_path)) == sorted(ODD, key=PurePosixPath)
    for subjects in ([], ["01"], ["1"], ["2"]):
        assert write_manifest(tmp_path, subjects).read_bytes() == content


def test_lines_of_others_survive_in_a_table_that_was_edited(dataset):
    content = (dataset / "manifest.tsv").read_bytes()
    rows = [{**row, "mine": "x"} for row in read_manifest(dataset)]
    (dataset / "sub-02" / "dwi" / "b.json").write_text("damage")
    atomic.write_tsv(dataset / "manifest.tsv", rows, ["mine", "sha256", "size", "path"])
    assert write_manifest(dataset, ["01"]).read_bytes() == content


def test_a_line_that_was_cut_off_is_dropped(dataset):
    path = dataset / "manifest.tsv"
    path.write_text(path.read_text() + "sub-03/a.json\t1\t")
    write_manifest(dataset, ["01"])
    assert set(listed(dataset)) == set(FILES)


def test_files_of_a_participant_are_those_of_folder_and_page(dataset):
    (dataset / "sub-012").mkdir()
    (dataset / "sub-012" / "c.json").touch()
    found = [path.relative_to(dataset).as_posix() for path in dataset_files(dataset, {"01"})]
    assert found == ["sub-01/ses-1/dwi/a.json", "sub-01.html"]
