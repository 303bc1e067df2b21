import json
import struct

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedrecon.experiment import config as configs
from fedrecon.experiment.settings import extras
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.storage.metrics_log import Records, Row
from fedrecon.experiment.tracking import follower as following
from fedrecon.experiment.tracking.follower import Follower, name_of
from fedrecon.experiment.training.run_experiment import follow

RMSE = "validation/recon_eval/examples/rmse"


def train(round):
    return Row(round, "train", "training", "examples", "loss", 1 / round)


def validation(round):
    return Row(round, "validation", "recon_eval", "examples", "rmse", 2 / round)


TEST = Row(2, "test", "recon_eval", "examples", "hr@10", 0.5)


def track(settings, folder, rounds, finished=False, test=False):
    """A process that works on a run for some rounds, of which the even ones are evaluated."""
    folder.mkdir(exist_ok=True)
    config = configs.load(None, [f"tracking.{x}" for x in settings])
    noted = []
    with follow(config, folder, noted.append) as followed:
        records = Records(None, followed)
        for round in rounds:
            records.append([train(round)])
            if round % 2 == 0:
                records.append([validation(round)])
        if test:
            records.append([TEST])
        followed.finished = finished
    assert noted == []


@pytest.fixture
def twice(tmp_path, monkeypatch):
    """A run that was killed after round 4 and went on from round 2; then resumed after its end."""
    monkeypatch.setattr(following, "PAUSE", 0.0)

    def go(*settings):
        folder = tmp_path / "run"
        track(settings, folder, [1, 2, 3, 4])
        track(settings, folder, [3, 4, 5, 6], finished=True, test=True)
        track(settings, folder, [], finished=True, test=True)
        return folder

    return go


EXPECTED = {
    "train/loss": [(r, 1 / r) for r in range(1, 7)],
    RMSE: [(2, 1.0), (4, 0.5), (6, 1 / 3)],
    "test/recon_eval/examples/hr_10": [(2, 0.5)],
}


def test_tensorboard_has_every_round_once(twice):
    folder = twice("name=tensorboard")
    read = EventAccumulator(str(folder / "tensorboard"))
    read.Reload()
    assert set(read.Tags()["scalars"]) == set(EXPECTED)
    for name, points in EXPECTED.items():
        found = [(event.step, event.value) for event in read.Scalars(name)]
        assert found == [(step, pytest.approx(value)) for step, value in points]


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # mlflow's, under the newest SQLAlchemy
def test_mlflow_has_every_round_once(twice, tmp_path):
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/store.db"
    folder = twice("name=mlflow", f'uri="{uri}"', "experiment=tests")
    client = MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("tests").experiment_id])
    assert run.info.run_id == (folder / "mlflow.txt").read_text().strip()
    assert (run.info.status, run.info.run_name) == ("FINISHED", "synthetic, seed 0")
    assert run.data.params["training.rounds"] == "300"
    assert not any(name.startswith("tracking") for name in run.data.params)
    assert set(run.data.metrics) == set(EXPECTED)
    for name, points in EXPECTED.items():
        assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)] == points


def test_wandb_has_every_round_once(twice, monkeypatch):
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    folder = twice("name=wandb", "mode=offline", "project=tests")
    found, summary, identities = {}, {}, set()
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for record in offline(path):
            if record.HasField("run"):
                identities.add(record.run.run_id)
                assert (record.run.project, record.run.display_name) == ("tests", "synthetic, seed 0")
            if record.HasField("history"):
                items = {
                    "/".join(x.nested_key) or x.key: json.loads(x.value_json) for x in record.history.item
                }
                for name in EXPECTED.keys() & items.keys():
                    found.setdefault(name, []).append((record.history.step.num, items[name]))
            if record.HasField("summary"):
                summary |= {
                    "/".join(x.nested_key) or x.key: json.loads(x.value_json) for x in record.summary.update
                }
    assert len(identities) == 1
    *curves, test = EXPECTED
    assert {name: found[name] for name in curves} == {name: EXPECTED[name] for name in curves}
    assert (test not in found, summary[test]) == (True, 0.5)


def offline(path):
    """The records in a file of Weights & Biases: LevelDB's log format with a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_package_is_named_with_its_extra(name, tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    message = rf"tracking.name = {name} needs the package {name}, .* pip install 'fedrecon\[{name}\]'"
    with pytest.raises(SettingError, match=message):
        follow(configs.load(None, [f"tracking.name={name}"]), tmp_path, print)


def test_without_a_tracker_nothing_is_followed(tmp_path):
    assert follow(configs.load(None), tmp_path, print) is None
    with pytest.raises(SettingError, match=r"tracking\.name must be one of 'none', 'tensorboard', 'wandb'"):
        configs.load(None, ["tracking.name=neptune"])


class Flaky:
    """A tracker that is away for a while."""

    def __init__(self, away):
        self.away, self.logged, self.closed = away, [], None

    def last(self):
        return {"train/loss": 1}

    def log(self, step, values):
        self.away -= 1
        if self.away >= 0:
            raise ConnectionError("nobody there\nmore")
        self.logged += [(step, name) for name in values]

    def flush(self):
        pass

    def close(self, finished):
        self.closed = finished


def test_a_tracker_that_fails_is_tried_again_and_does_not_stop_the_run(monkeypatch):
    monkeypatch.setattr(following, "PAUSE", 0.0)
    tracker, noted = Flaky(2), []
    with Follower(lambda: tracker, noted.append) as followed:
        for round in (1, 2, 3, 4):
            followed([train(round)])
        followed([validation(4)])
        followed.finished = True
    assert tracker.logged == [(2, "train/loss"), (3, "train/loss"), (4, "train/loss"), (4, RMSE)]
    failure = "tracking failed, the run goes on and will try again: ConnectionError: nobody there"
    assert noted == [failure]
    assert tracker.closed is True

    tracker, noted = Flaky(99), []
    with Follower(lambda: tracker, noted.append) as followed:
        followed([train(1), train(2)])
    assert noted == [failure, "tracking: 2 numbers could not be passed on"]
    assert tracker.closed is False


def test_what_a_kill_kept_from_the_tracker_is_passed_on(tmp_path, monkeypatch):
    """Rounds up to the checkpoint are in the file, and the tracker has the first of them."""
    monkeypatch.setattr(following, "PAUSE", 0.0)
    killed = Records(tmp_path / "metrics.csv")
    killed.restart(0)
    killed.append([train(1), train(2), validation(2), train(3)])
    killed.commit()
    tracker = Flaky(0)
    with Follower(lambda: tracker, print) as followed:
        records = Records(tmp_path / "metrics.csv", followed)
        records.restart(2)
        records.append([train(3)])
    assert tracker.logged == [(2, "train/loss"), (2, RMSE), (3, "train/loss")]


def test_trackers_are_written_to_once_in_a_while():
    tracker = Flaky(0)
    with Follower(lambda: tracker, print) as followed:
        followed._written = following.time.monotonic()
        followed([train(2)])
        assert tracker.logged == []
    assert tracker.logged == [(2, "train/loss")]


def test_names_are_those_that_all_trackers_allow():
    assert name_of(train(1)) == "train/loss"
    assert name_of(TEST) == "test/recon_eval/examples/hr_10"
