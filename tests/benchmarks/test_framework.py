from types import SimpleNamespace

import pytest

from benchmarks import __main__ as program
from benchmarks.framework import Effort, Table, Task, medians, process_pool, product

TINY = Effort(True, n_voxels=4, n_seeds=3)


def measure(snr, seed, n_voxels):
    if snr == 20:
        raise ValueError("this condition is broken")
    return [{"tissue": "WM", "rmse": seed / snr}, {"tissue": "GM", "rmse": n_voxels}]


def module(**fields):
    return SimpleNamespace(
        tasks=lambda effort: product(measure, effort, snr=(10, 20)),
        summarise=lambda records: Table.of(medians(records, ["snr", "tissue"], ["rmse"])),
        **fields,
    )


@pytest.fixture(scope="module")
def pool():
    with process_pool(1) as pool:
        yield pool


def test_conditions_and_seeds_are_crossed():
    tasks = product(measure, TINY, snr=(10, 20))
    assert [(task.condition["snr"], task.seed) for task in tasks] == [
        (snr, seed) for snr in (10, 20) for seed in (0, 1, 2)
    ]


def test_records_carry_condition_and_seed():
    records = Task(measure, {"snr": 10}, 2, {"n_voxels": 4}).run()
    assert records[0] == {"snr": 10, "seed": 2, "tissue": "WM", "rmse": 0.2}


@pytest.mark.parametrize("alone", [False, True])
def test_a_failing_task_names_itself_and_the_others_go_on(alone, pool, tmp_path, capsys):
    failures = program.run("made_up", module(ALONE=alone), TINY, pool, tmp_path)
    assert failures == 3
    told = capsys.readouterr()
    assert "made_up 20 seed 1 FAILED" in told.err
    assert "this condition is broken" in told.err
    assert "3 tasks failed" in told.out
    lines = (tmp_path / "made_up.tsv").read_text().splitlines()
    assert lines[0] == "# python -m benchmarks made_up --quick"
    assert lines[-3:] == ["snr\ttissue\trmse", "10\tWM\t0.1", "10\tGM\t4"]
    assert len((tmp_path / "made_up_records.tsv").read_text().splitlines()) == len(lines) - 2 + 6


def test_the_picture_is_drawn(pool, tmp_path):
    def draw(table, figure):
        figure.subplots().plot([row["rmse"] for row in table.rows])

    program.run("made_up", module(draw=draw), TINY, pool, tmp_path)
    assert (tmp_path / "made_up.png").stat().st_size > 1000


def test_tables_say_what_is_missing():
    table = Table.of([{"a": 1}, {"b": float("nan")}])
    assert table.tsv().splitlines() == ["a\tb", "1\tn/a", "n/a\tn/a"]
    assert table.aligned().splitlines()[1].split() == ["1", "n/a"]


def test_medians_leave_out_what_is_missing():
    rows = medians([{"k": 1, "v": 3.0}, {"k": 1, "v": float("nan")}, {"k": 1}], ["k"], ["v"])
    assert rows == [{"k": 1, "v": 3.0}]


def test_unknown_benchmarks_are_refused(capsys):
    with pytest.raises(SystemExit):
        program.main(["no_such_benchmark"])
    assert "no_such_benchmark" in capsys.readouterr().err
