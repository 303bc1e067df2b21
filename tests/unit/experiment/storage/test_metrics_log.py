import math

import pytest

from fedrecon.errors import RunError
from fedrecon.experiment.storage.metrics_log import Records, Row, read, rows

HEADER = "round,split,protocol,weighting,metric,value"


def row(round, value=0.1, split="train", metric="loss", weighting="examples"):
    return Row(round, split, "training" if split == "train" else "recon_eval", weighting, metric, value)


@pytest.fixture
def records(tmp_path):
    fresh = Records(tmp_path / "metrics.csv")
    fresh.restart(0)
    return fresh


def test_rows_are_written_at_a_commit_and_read_back_exactly(records):
    values = [0.1 + 0.2, 1e-300, -0.0, math.inf, 12345678901234.5]
    records.append(row(i, v) for i, v in enumerate(values, 1))
    assert read(records.path) == []
    records.write()
    assert [r.value for r in read(records.path)] == values
    records.commit()
    assert [r.value for r in read(records.path)] == values
    assert records.path.read_text().splitlines()[:2] == [
        HEADER,
        f"1,train,training,examples,loss,{0.1 + 0.2!r}",
    ]
    records.append([row(6, math.nan)])
    records.commit()
    records.commit()
    assert len(read(records.path)) == 6
    assert math.isnan(read(records.path)[-1].value)


def test_going_back_drops_later_rounds_the_test_and_a_torn_line(records):
    records.append([row(1), row(2), row(2, split="validation"), row(2, split="test"), row(3), row(4)])
    records.commit()
    with open(records.path, "a") as file:
        file.write("5,train,training,exam")
    again = Records(records.path)
    assert again.restart(2) == 2
    assert [(r.round, r.split) for r in again] == [(1, "train"), (2, "train"), (2, "validation")]
    assert read(records.path) == list(again)
    assert again.restart(2) == 0
    again.append([row(3)])
    again.commit()
    assert [r.round for r in read(records.path)] == [1, 2, 2, 3]


def test_the_listener_of_a_run_that_goes_on_is_told_what_stays(records):
    """A kill may have come after the file was written and before they were passed on."""
    records.append([row(1), row(2), row(3), row(3, split="test")])
    records.commit()
    told = []
    again = Records(records.path, told.append)
    again.restart(2)
    assert told == [[row(1), row(2)]]
    again.append([row(3)])
    assert told[1:] == [[row(3)]]
    Records(records.path, told.append).restart(0)
    assert len(told) == 2


def test_a_run_killed_before_its_first_line_starts_afresh(tmp_path):
    for content in ("", "round,spl"):
        path = tmp_path / "metrics.csv"
        path.write_text(content)
        records = Records(path)
        assert records.restart(0) == 0
        assert path.read_text() == HEADER + "\n"


@pytest.mark.parametrize(
    "line", ["1,train,training,examples,loss", "x,train,training,examples,loss,1", "1,a,b,c,d,e"]
)
def test_another_line_that_is_not_one_is_named(records, line):
    with open(records.path, "a") as file:
        file.write(f"1,train,training,examples,loss,0.5\n{line}\n")
    with pytest.raises(RunError, match=rf"metrics\.csv:3: a line must be {HEADER}, got '{line}'"):
        read(records.path)


def test_other_columns_are_refused(records):
    records.path.write_text("a,b\n1,2\n")
    with pytest.raises(RunError, match=r"metrics\.csv:1: the columns must be .*, got 'a,b'"):
        Records(records.path).restart(0)


def test_series():
    records = Records()
    for round in (2, 4):
        summary = {
            "examples": {"rmse": 1 / round},
            "clients": {"rmse": 2 / round},
            "distribution": {"rmse": {}},
        }
        records.append(rows(round, "validation", "recon_eval", summary))
    assert records.series("validation", "rmse") == {2: 0.5, 4: 0.25}
    assert records.series("validation", "rmse", "clients") == {2: 1.0, 4: 0.5}
    assert len(records) == 4
    records.commit()


def test_names_with_commas_survive(records):
    records.append([row(1, split='a,"b"')])
    records.commit()
    assert read(records.path)[0].split == 'a,"b"'
