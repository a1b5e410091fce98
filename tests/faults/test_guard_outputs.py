"""Where a warning stands: in the log, the report, the quality file and the group table."""

import csv
import html
import json
import re

import pytest

from bids_gmvae.exceptions import ExitCode
from tests.bids_tree import write_tree
from tests.faults.processes import command, finish
from tests.tiny import signals, tiny_dataset

CODE = "b0_brightness"
SAYS = "b0 images of a series must be equally bright"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Maps of a sound run and of one with a step between its b0 images, and the group tables."""
    root = tmp_path_factory.mktemp("outputs")
    joined = signals(1)
    joined[..., 2:4] = 0.8 * joined[..., 2:4]
    tiny_dataset(root / "bids", "sub-01/dwi/sub-01", "sub-02/dwi/sub-02")
    write_tree(root / "bids", {"sub-02/dwi/sub-02_dwi.nii.gz": joined})
    code, said = finish(command(root / "bids", root))
    assert code == ExitCode.OK, said
    code, said = finish([*command(root / "bids", root)[:5], "group", "-w", str(root / "work")])
    assert code == ExitCode.OK, said
    return root / "out"


@pytest.mark.slow
def test_a_warning_stands_in_log_report_quality_file_and_group_table(outputs):
    logs = [path.read_text(encoding="utf-8") for path in outputs.glob("logs/*/*.log")]
    assert [log for log in logs if re.search(f"WARNING.*sub-02.*{SAYS}", log)]
    assert not [log for log in logs if re.search(f"sub-01.*{SAYS}", log)]

    pages = [(outputs / f"sub-{label}.html").read_text(encoding="utf-8") for label in ("01", "02")]
    assert [SAYS in html.unescape(page) for page in pages] == [False, True]

    sound, spoilt = (
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(outputs.glob("sub-*/dwi/*_desc-qc.json"))
    )
    assert CODE not in [issue["code"] for issue in sound["issues"]]
    (issue,) = [issue for issue in spoilt["issues"] if issue["code"] == CODE]
    assert issue["severity"] == "warning"
    assert issue["text"].startswith(SAYS)
    assert spoilt["n_warnings"] == sound["n_warnings"] + 1

    with (outputs / "group_qc.tsv").open(encoding="utf-8", newline="") as file:
        rows = {row["participant_id"]: row for row in csv.DictReader(file, delimiter="\t")}
    assert [CODE in rows[f"sub-{label}"]["issue_codes"] for label in ("01", "02")] == [False, True]
