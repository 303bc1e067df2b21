"""Several processes that fill one output."""

import json
import subprocess
import sys
import threading

import pytest
from tests.unit.experiment.serving.test_parquet_parts import REQUEST, listed, make, table

from fedrecon.errors import RunError
from fedrecon.experiment.serving.parquet_parts import ResumableParquetWriter
from fedrecon.experiment.serving.shares import Share
from fedrecon.experiment.settings.sections import SettingError

COUNT = 5


def fill(out, share, part=table, request=REQUEST):
    """Makes a share, and tells which parts it made and whether the file is there."""
    with ResumableParquetWriter(out, request, COUNT, share) as parts:
        return sorted(parts.make(part, 2)), parts.complete


def broken(number):
    if number == 2:
        raise OSError("no power")
    return table(number)


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
@pytest.mark.parametrize(("name", "part"), [("out.parquet", table), ("out.csv", listed)])
def test_the_last_share_joins_the_file_of_one_process(tmp_path, order, name, part):
    whole = tmp_path / f"whole-{name}"
    make(whole, part)
    made, done = zip(*(fill(tmp_path / name, Share(i, 3), part) for i in order), strict=True)
    assert sorted(n for numbers in made for n in numbers) == list(range(COUNT))
    assert done == (False, False, True)
    assert (tmp_path / name).read_bytes() == whole.read_bytes()
    # A CSV file cannot say of which request it is: a note beside it does. Nothing else is left.
    notes = [f".{file}.request.json" for file in (name, whole.name) if file.endswith(".csv")]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, whole.name, *notes])


def test_a_share_that_failed_is_named_and_made_again(tmp_path):
    out, whole = tmp_path / "out.parquet", tmp_path / "whole.parquet"
    make(whole, table)
    with pytest.raises(OSError, match="no power"):
        fill(out, Share(1, 2), broken)
    assert fill(out, Share(2, 2)) == ([1, 3], False)
    with ResumableParquetWriter(out, REQUEST, COUNT, None) as parts:
        assert not parts.join() and parts.missing() == []
        assert parts.describe_unfinished().startswith("Missing: --share 1/2 lacks ")
    made, done = fill(out, Share(1, 2))
    assert 2 in made and set(made) < {0, 2, 4, 99} and done
    assert out.read_bytes() == whole.read_bytes()
    with ResumableParquetWriter(out, REQUEST, COUNT, None) as parts:
        assert parts.join() and parts.describe_unfinished() == "Another process joins the parts now"


def test_parts_of_an_unknown_number_of_shares_are_counted(tmp_path):
    out = tmp_path / "out.parquet"
    fill(out, Share(2, 2))
    (tmp_path / ".out.parquet.parts" / "manifest.json").unlink()
    with ResumableParquetWriter(out, REQUEST, COUNT, None) as parts:
        assert not parts.join()
        text = parts.describe_unfinished()
        assert text.startswith("Missing: 3 parts of 5, and the file") and "manifest.json" in text
    assert fill(out, Share(1, 2)) == ([0, 2, 4], True)


def test_parts_whose_maker_died_before_joining_are_joined(tmp_path, monkeypatch):
    out = tmp_path / "out.parquet"
    fill(out, Share(1, 2))
    with monkeypatch.context() as patch:
        patch.setattr(ResumableParquetWriter, "join", lambda self: False)
        fill(out, Share(2, 2))
    assert not out.exists()
    with ResumableParquetWriter(out, REQUEST, COUNT, None) as parts:
        assert parts.join()
    make(tmp_path / "whole.parquet", table)
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    with pytest.raises(RunError, match=r"none\.parquet: there are no parts to join"):
        ResumableParquetWriter(tmp_path / "none.parquet", REQUEST, COUNT, None)


def test_other_requests_are_refused_before_the_first_part_is_there(tmp_path):
    out, other = tmp_path / "out.parquet", {**REQUEST, "round": 4}
    with ResumableParquetWriter(out, REQUEST, COUNT, Share(1, 2)):
        for share in (Share(2, 2), None):
            with pytest.raises(RunError, match="after round 3 and not after round 4"):
                ResumableParquetWriter(out, other, COUNT, share)
        with pytest.raises(RunError, match=r"another process .*: share 1/2 is being made \(--share 1/2\)"):
            ResumableParquetWriter(out, REQUEST, COUNT, Share(1, 2))
        with pytest.raises(RunError, match=r"share 1/2 is being made \(--share 3/3\)"):
            ResumableParquetWriter(out, REQUEST, COUNT, Share(3, 3))
        with pytest.raises(RunError, match=r"share 1/2 is being made$"):
            ResumableParquetWriter(out, REQUEST, COUNT)
    # What nobody makes any more may go on in another number of shares, or in one process.
    assert fill(out, Share(3, 3)) == ([2], False)
    assert make(out, table) == [0, 1, 3, 4]


def test_shares_at_the_same_time_join_once(tmp_path):
    whole = tmp_path / "whole.parquet"
    make(whole, table)
    for attempt in range(10):
        out, barrier, done = tmp_path / f"{attempt}.parquet", threading.Barrier(4), []

        def work(number, out=out, barrier=barrier, done=done):
            barrier.wait()
            done.append(fill(out, Share(number, 4))[1])

        threads = [threading.Thread(target=work, args=(i,)) for i in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(done) == 4 and any(done) and out.read_bytes() == whole.read_bytes()
        assert not out.with_name(f".{out.name}.parts").exists()


KILLED = """
import sys
from pathlib import Path
from fedrecon.experiment.serving.parquet_parts import ResumableParquetWriter
from fedrecon.experiment.serving.shares import Share
import json
with ResumableParquetWriter(Path(sys.argv[1]), json.loads(sys.argv[2]), 5, Share(1, 2)):
    print("begun", flush=True)
    sys.stdin.read()
"""


def test_a_kill_frees_the_share(tmp_path):
    out = tmp_path / "out.parquet"
    command = [sys.executable, "-c", KILLED, str(out), json.dumps(REQUEST)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        with pytest.raises(RunError, match="share 1/2 is being made"):
            ResumableParquetWriter(out, REQUEST, COUNT, Share(1, 2))
        process.kill()
    assert fill(out, Share(1, 2)) == ([0, 2, 4], False)


@pytest.mark.parametrize("text", ["", "2", "0/2", "3/2", "1/0", "-1/2", "1/2/3", "a/b", "1.0/2", "1 / 2"])
def test_texts_that_name_no_share_are_refused(text):
    with pytest.raises(SettingError, match=r"--share must be I/N with I from 1 to N, such as 1/4 .* got '"):
        Share.parse(text)


def test_shares_divide_the_parts():
    assert Share.parse("2/4") == Share(2, 4) and str(Share(2, 4)) == "2/4"
    for count in range(9):
        parts = [n for i in range(1, 5) for n in Share(i, 4).parts(count)]
        assert sorted(parts) == list(range(count))


def test_a_damaged_manifest_is_named(tmp_path):
    out = tmp_path / "out.parquet"
    fill(out, Share(1, 2))
    (tmp_path / ".out.parquet.parts" / "manifest.json").write_text("[]")
    with pytest.raises(RunError, match=r"manifest\.json: must hold the number of shares, and is damaged"):
        fill(out, Share(2, 2))


def test_parts_without_their_request_do_not_get_into_a_file(tmp_path):
    """A kill while the folder is removed, or a hand, can leave parts alone."""
    out, other = tmp_path / "out.parquet", {**REQUEST, "round": 4}
    fill(out, Share(1, 2))
    (tmp_path / ".out.parquet.parts" / "request.json").unlink()
    with pytest.raises(RunError, match=r"must hold request\.json"):
        ResumableParquetWriter(out, other, COUNT, None)
    with ResumableParquetWriter(out, other, COUNT) as parts:
        assert parts.missing() == list(range(COUNT))
