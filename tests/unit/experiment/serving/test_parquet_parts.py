"""A file made in parts."""

import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedrecon import _safe_text as safe_text
from fedrecon.errors import RunError
from fedrecon.experiment.serving.parquet_parts import ResumableParquetWriter, personalized_format
from fedrecon.experiment.serving.requests import describe_difference
from fedrecon.experiment.settings.sections import SettingError

REQUEST = {"round": 3, "wanted": {"top": None, "seen": False}}


def table(number: int) -> pa.Table:
    return pa.table({"client": [2 * number, 2 * number + 1], "x": [[0.5 * number], []]})


def recommended(number: int) -> pa.Table:
    kinds = {"item": pa.large_list(pa.int64()), "score": pa.list_(pa.float32(), 2)}
    rows = {"client": [f"c{number}"], "item": [[7, 7]], "score": [[0.5, number]]}
    return pa.table(rows, pa.schema({"client": pa.string(), **kinds}))


def make(out, part, count=5, request=REQUEST, threads=1):
    with ResumableParquetWriter(out, request, count) as parts:
        missing = parts.missing()
        assert sorted(parts.make(part, threads)) == missing
    return missing


def failing(number: int) -> pa.Table:
    if number == 3:
        raise OSError("no power")
    return table(number)


def test_what_was_made_before_a_failure_is_not_made_again(tmp_path):
    whole, broken = tmp_path / "whole.parquet", tmp_path / "broken.parquet"
    assert make(whole, table, threads=2) == list(range(5))
    with pytest.raises(OSError, match="no power"):
        make(broken, failing)
    assert not broken.exists()
    made = []

    def counted(number: int) -> pa.Table:
        made.append(number)
        return table(number)

    missing = make(broken, counted, threads=2)
    assert 3 in missing and len(missing) < 5 and sorted(made) == missing
    assert broken.read_bytes() == whole.read_bytes()
    assert pq.read_table(broken)["client"].to_pylist() == list(range(10))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.parquet", "whole.parquet"]


def test_dictionaries_are_made_of_what_comes_again(tmp_path):
    """Not of numbers with a point: looking for the same ones takes longer than all the rest of writing."""
    out = tmp_path / "out.parquet"
    make(out, recommended, count=2)
    group = pq.ParquetFile(out).metadata.row_group(1)
    columns = [group.column(i) for i in range(group.num_columns)]
    assert {c.path_in_schema: c.has_dictionary_page for c in columns} == {
        "client": True,
        "item.list.element": True,
        "score.list.element": False,
    }
    assert pq.read_table(out).to_pylist()[1] == {"client": "c1", "item": [7, 7], "score": [0.5, 1.0]}


def test_a_file_that_is_there_is_left_alone(tmp_path):
    out = tmp_path / "out.parquet"
    make(out, table)
    before = out.stat().st_mtime_ns
    assert make(out, table) == [] and out.stat().st_mtime_ns == before
    with pytest.raises(RunError, match=r"out.parquet: .* it was made without --top and not with --top 5"):
        ResumableParquetWriter(out, {**REQUEST, "wanted": {"top": 5}}, 5)


def test_parts_of_another_request_are_refused(tmp_path):
    out = tmp_path / "out.parquet"
    with (
        ResumableParquetWriter(out, REQUEST, 5),
        pytest.raises(RunError, match="another process is using this output"),
    ):
        ResumableParquetWriter(out, REQUEST, 5)
    another = {**REQUEST, "round": 4}
    with ResumableParquetWriter(out, another, 5):
        pass  # of the first request there is no part: nobody loses any
    with pytest.raises(OSError, match="no power"):
        make(out, failing)
    with pytest.raises(RunError, match="after round 3 and not after round 4; remove it"):
        ResumableParquetWriter(out, another, 5)


def test_foreign_files_are_not_overwritten(tmp_path):
    out = tmp_path / "out.parquet"
    for write in (lambda: out.write_bytes(b"mine"), lambda: pq.write_table(table(0), out)):
        write()
        before = out.read_bytes()
        with pytest.raises(RunError, match="not one of this command"):
            ResumableParquetWriter(out, REQUEST, 2)
        assert out.read_bytes() == before


def listed(number: int) -> pa.Table:
    """Recommendations: the second client of a part gets none."""
    kinds = {"item": pa.large_list(pa.string()), "score": pa.large_list(pa.float32())}
    rows = {"client": [2 * number, 2 * number + 1], "item": [["x", 'y"'], []], "score": [[0.5, 0.25], []]}
    return pa.table(rows, pa.schema({"client": pa.int64(), **kinds}))


def fitted(number: int) -> pa.Table:
    kinds = {
        "bias": pa.float32(),
        "user": pa.list_(pa.float32(), 2),
        "m": pa.list_(pa.list_(pa.int32(), 1), 2),
    }
    rows = {"client": [f"c{number}"], "bias": [0.5], "user": [[1.5, number]], "m": [[[7], [8]]]}
    return pa.table(rows, pa.schema({"client": pa.string(), **kinds}))


def test_csv_has_a_line_for_each_recommendation(tmp_path):
    make(tmp_path / "top.csv", listed, count=2)
    assert (tmp_path / "top.csv").read_text().splitlines() == [
        '"client","rank","item","score"',
        '0,1,"x",0.5',
        '0,2,"y""",0.25',
        '2,1,"x",0.5',
        '2,2,"y""",0.25',
    ]


def test_csv_has_a_column_for_each_number_of_local_parameters(tmp_path):
    make(tmp_path / "users.csv", fitted, count=2)
    assert (tmp_path / "users.csv").read_text().splitlines() == [
        '"client","bias","user.0","user.1","m.0.0","m.1.0"',
        '"c0",0.5,1.5,0,7,8',
        '"c1",0.5,1.5,1,7,8',
    ]


def cells(path):
    return list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))


def test_texts_in_csv_are_no_formulas_and_numbers_keep_their_signs(tmp_path):
    ids = ["=1+1", "-5", "-5.5x", "@a", "'=b", "plain", "+7", 'a,"b'] * 2

    def of_formulas(number: int) -> pa.Table:
        items = pa.array(ids[:1] * 2).dictionary_encode()
        part = pa.table({"client": ids[number * 4 : number * 4 + 4], "=x": [-0.5] * 4})
        lists = pa.LargeListArray.from_arrays([0, 2, 2, 2, 2], items)
        return part if number % 2 else part.append_column("item", lists).drop_columns("=x")

    make(tmp_path / "top.csv", lambda _: of_formulas(0), count=1)
    assert cells(tmp_path / "top.csv") == [
        ["client", "rank", "item"],
        ["'=1+1", "1", "'=1+1"],
        ["'=1+1", "2", "'=1+1"],
    ]
    make(tmp_path / "users.csv", lambda _: of_formulas(1), count=1)
    assert cells(tmp_path / "users.csv") == [
        ["client", "'=x"],
        ["''=b", "-0.5"],
        ["plain", "-0.5"],
        ["'+7", "-0.5"],
        ['a,"b', "-0.5"],
    ]
    make(tmp_path / "all.csv", lambda _: pa.table({"client": ids[:8]}), count=1)
    written = [row[0] for row in cells(tmp_path / "all.csv")[1:]]
    assert written[1] == "-5" and [safe_text.from_csv_cell(cell) for cell in written] == ids[:8]


def test_csv_goes_on_after_a_failure_and_is_not_overwritten(tmp_path):
    whole, broken = tmp_path / "whole.csv", tmp_path / "broken.csv"
    make(whole, listed)

    def failing_at_two(number: int) -> pa.Table:
        if number == 2:
            raise OSError("no power")
        return listed(number)

    with pytest.raises(OSError, match="no power"):
        make(broken, failing_at_two)
    assert not broken.exists()
    assert 2 in make(broken, listed)
    assert broken.read_bytes() == whole.read_bytes()
    # After a kill between the last two steps the folder is there beside the file.
    parts = tmp_path / ".whole.csv.parts"
    parts.mkdir()
    (parts / "request.json").write_text(json.dumps(REQUEST))
    assert make(whole, listed) == [] and not parts.exists()


def test_a_finished_csv_file_is_recognised_as_a_parquet_file_is(tmp_path):
    out = tmp_path / "top.csv"
    make(out, listed)
    before = out.read_bytes()
    assert make(out, listed) == [] and out.read_bytes() == before
    with pytest.raises(RunError, match="another request: it is of the parameters after round 3 and not"):
        make(out, listed, request={**REQUEST, "round": 4})
    # A file that somebody has changed, or put there, is neither reported as finished nor overwritten.
    out.write_bytes(before + b"\n")
    with pytest.raises(
        RunError, match=r"top\.csv: there is a file already, and not as this command wrote it"
    ):
        make(out, listed)
    (tmp_path / ".top.csv.request.json").write_text("[]")
    with pytest.raises(RunError, match="there is a file already"):
        make(out, listed)
    out.unlink()
    assert make(out, listed, request={**REQUEST, "round": 4}) == list(range(5)) and out.read_bytes() == before


@pytest.mark.parametrize(
    ("there", "here", "text"),
    [
        ({"wanted": {"top": 5}}, {"wanted": {}}, "it was made with --top 5 and not without --top"),
        (
            {"wanted": {"seen": True}},
            {"wanted": {"seen": False}},
            "it was made with --seen and not without --seen",
        ),
        (
            {"wanted": {"field": "a"}},
            {"wanted": {"field": "b"}},
            "it was made with --field a and not with --field b",
        ),
        (
            {"data": "1"},
            {"data": "2", "reading": ["data.scale=[1,2]", "data.unrated=0"]},
            "it was made without --set and not with --set data.scale=[1,2] --set data.unrated=0",
        ),
        ({"data": "1", "round": 3}, {"data": "2", "round": 3}, "it is of other clients or examples"),
        ({"run": {"clients": {"train": "1"}}}, {"run": {"clients": {"train": "2"}}}, "it is of another run"),
        ({"clients_per_part": 8}, {"clients_per_part": 9}, "its parts have 8 clients and not 9"),
        ({"new": 1}, {}, "new is 1 there and None here"),
        ({"round": 3, "wanted": {"top": None}}, {"round": 3, "wanted": {}}, ""),
    ],
)
def test_differences_of_requests_are_told_in_a_users_words(there, here, text):
    assert describe_difference(there, here) == text


@pytest.mark.parametrize("name", ["x.json", "x", "csv", ".parquet"])
def test_other_formats_are_refused(name):
    with pytest.raises(SettingError, match=r"--out must end in \.parquet or \.csv"):
        personalized_format(Path(name))


@pytest.mark.parametrize(("name", "kind"), [("x.csv", "csv"), ("x.CSV", "csv"), ("a.b/x.parquet", "parquet")])
def test_the_name_says_the_format(name, kind):
    assert personalized_format(Path(name)) == kind
