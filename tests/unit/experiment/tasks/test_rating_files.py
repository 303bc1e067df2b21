"""Settings of rating files: how they are written, which columns are read, and what is measured on them."""

import gzip

import numpy as np
import pytest

from fedrecon.data import write_shards
from fedrecon.data._clients import Clients
from fedrecon.errors import DataError
from fedrecon.experiment.config import load, resolve
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.tasks._ratings import resolve_accuracy_width
from fedrecon.experiment.tasks._spec import task_spec
from fedrecon.experiment.training.build import task_of
from fedrecon.models import matrix_factorization

USERS, ITEMS = 20, 8


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def written(path, separator=",", header="", scale=5):
    """Every user rates six items from 0 on, one more than the rating before, in time order."""
    rows = [header] if header else []
    for user in range(USERS):
        for place in range(6):
            fields = (f"u{user}", f"i{(user + place) % ITEMS}", place % (scale + 1), 1000 + place)
            rows.append(separator.join(map(str, fields)))
    path.write_text("\n".join(rows) + "\n")
    return str(path)


def config_of(path, columns, task="movielens", **more):
    protocol = {"protocol": {"name": "leave_one_out", "sampled": 2}} if task == "ranking" else {}
    return resolve({"task": task, "data": {"path": path, "columns": columns, **protocol, **more}}, "test")


POSITIONS = {"client": 1, "item": 2, "rating": 3, "time": 4}


@pytest.mark.parametrize("task", ["movielens", "ranking"])
def test_columns_by_position_of_a_packed_file(tmp_path, task):
    text = written(tmp_path / "ratings.csv", ";")
    packed = tmp_path / "ratings.csv.gz"
    packed.write_bytes(gzip.compress((tmp_path / "ratings.csv").read_bytes()))
    plain, same = (task_of(config_of(str(x), POSITIONS, task)) for x in (text, packed))
    assert plain.train.ids.tolist() == same.train.ids.tolist()
    np.testing.assert_array_equal(plain.train.column("item"), same.train.column("item"))
    assert plain.notes == same.notes == {
        "Ratings read as": "a semicolon-separated table with client = field 1, item = field 2, "
        "rating = field 3, time = field 4"
    }  # fmt: skip


@pytest.mark.parametrize("task", ["movielens", "ranking"])
def test_client_files_of_any_name_have_their_own_columns(tmp_path, task):
    clients = Clients.from_columns([1, 2], [0, 1, 2], {"item": [0, 0]}, {"item": ["a"]})
    clients.write(tmp_path / "clients.data")
    write_shards(tmp_path / "shards", clients, 2)
    (tmp_path / "other").write_text("1,2,3\n")
    only_one = {"client": "user"}
    for name in ("clients.data", "shards", "not there.arrow"):
        assert config_of(str(tmp_path / name), only_one, task).data.columns.client == "user"
    for name in ("other", "not there"):
        with pytest.raises(SettingError, match=r"columns\.item must name the column of the item"):
            config_of(str(tmp_path / name), only_one, task)


def test_positions_on_the_command_line_are_numbers(tmp_path):
    path = written(tmp_path / "ratings.csv")
    given = [f"data.columns.{role}={place}" for role, place in POSITIONS.items()]
    config = load(None, ["task=movielens", *given])
    assert config.data.columns.model_dump() == POSITIONS
    config = config.model_copy(update={"data": config.data.model_copy(update={"path": path})})
    described = task_spec("movielens").describe_source(config)
    assert described.startswith("a comma-separated table with client = field 1")
    with pytest.raises(
        SettingError, match=r"data\.columns\.client must be .*greater than or equal to 1, got 0"
    ):
        load(None, ["task=movielens", "data.columns.client=0"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"columns": {"client": "user"}},
            "data.columns.item must name the column of the item where others are",
        ),
        ({"columns": {"item": 2, "rating": 3}}, "data.columns.client must name the column of the client"),
        ({"columns": {"client": "a", "item": "a"}}, "data.columns must name each column once"),
        (
            {"columns": {"client": "a", "item": 2}},
            "data.columns must be names or, in a file without a header",
        ),
        ({"encoding": "latin-99"}, "data.encoding must be one that Python knows"),
        ({"unrated": float("inf")}, "data.unrated must be a finite number, got inf"),
        ({"scale": [5.0, 1.0]}, r"data.scale must be \(least, greatest\) with least < greatest"),
        ({"scale": [5.0]}, r"data.scale must be \(least, greatest\)"),
    ],
)
def test_rules_of_the_reader_are_held_to_before_a_file_is_read(data, message):
    with pytest.raises(SettingError, match=f"^test: {message}"):
        resolve({"task": "movielens", "data": {"path": "missing.csv", **data}}, "test")
    if "scale" not in data:
        with pytest.raises(SettingError, match=f"^test: {message}"):
            resolve({"task": "ranking", "data": {"path": "missing.csv", **data}}, "test")


def test_ratings_that_stand_for_none(tmp_path):
    path = written(tmp_path / "ratings.csv")
    all_of_them = task_spec("movielens").load_all_clients(config_of(path, POSITIONS))
    rated = task_spec("movielens").load_all_clients(config_of(path, POSITIONS, unrated=0.0))
    assert all_of_them.num_examples.tolist() == [6] * USERS and rated.num_examples.tolist() == [5] * USERS
    assert rated.column("rating").min() == 1
    config = config_of(path, POSITIONS, unrated=0.0)
    assert task_spec("movielens").describe_source(config).endswith("; a rating of 0 stands for none")


def test_items_without_ratings_are_ranked_and_not_predicted(tmp_path):
    path = written(tmp_path / "ratings.csv")
    alone = {"client": 1, "item": 2, "time": 4}
    task = task_of(config_of(path, alone, "ranking"))
    assert task.train.num_examples.tolist() == [5] * USERS
    with pytest.raises(DataError, match=r"must have a column of the rating, .* data\.columns\.rating"):
        task_of(config_of(path, alone))


def test_movielens_header_with_another_scale(tmp_path):
    path = written(tmp_path / "ratings.csv", header="userId,movieId,rating,timestamp", scale=10)
    numbers = (tmp_path / "ratings.csv").read_text().replace("u", "").replace("i", "")
    header = "userId,movieId,rating,timestamp\n"
    (tmp_path / "ratings.csv").write_text(header + numbers.split("\n", 1)[1])
    assert task_of(config_of(path, {}, "ranking")).train.num_examples.tolist() == [5] * USERS
    with pytest.raises(
        DataError, match=r"line 2: rating must be within the scale .*data\.scale.*data\.unrated"
    ):
        task_of(config_of(path, {}))
    assert len(task_of(config_of(path, {}, scale=[0.0, 10.0])).train)


def metrics_of(model):
    globals_, locals_ = (np.zeros((2, 3), np.float32), np.zeros(3, np.float32))
    batch = {"item": np.array([0, 1]), "rating": np.array([0.4, 1.5], np.float32)}
    means = model.metrics({"item": {"factors": globals_}}, {"user": {"factors": locals_}}, batch)
    return {name: float(mean.total.sum() / mean.weight.sum()) for name, mean in means.items()}


def test_accuracy_is_measured_in_stars_or_in_a_unit_that_is_set(tmp_path):
    stars = written(tmp_path / "stars.csv")
    points = written(tmp_path / "points.csv", scale=100)
    with_stars = task_of(config_of(stars, POSITIONS, unrated=0.0)).model
    assert set(metrics_of(with_stars)) == {"mse", "accuracy"}
    (tmp_path / "points.csv").write_text((tmp_path / "points.csv").read_text().replace(",5,", ",90,"))
    config = config_of(points, POSITIONS)
    assert set(metrics_of(task_of(config).model)) == {"mse"}
    wider = config.model_copy(update={"model": config.model.model_copy(update={"accuracy_within": 1.0})})
    assert metrics_of(task_of(wider).model)["accuracy"] == 0.5
    assert metrics_of(matrix_factorization(2, 3))["accuracy"] == 0.5
    assert metrics_of(matrix_factorization(2, 3, accuracy_within=2.0))["accuracy"] == 1.0
    assert set(metrics_of(matrix_factorization(2, 3, accuracy_within=None))) == {"mse"}
    with pytest.raises(ValueError, match=r"accuracy_within must be positive or None, got 0\.0"):
        matrix_factorization(2, 3, accuracy_within=0.0)


@pytest.mark.parametrize(
    ("ratings", "width"), [([0.5, 5.0, 3.5], 0.5), ([0.0, 5.0], None), ([1.0, 10.0], None), ([3.2], None)]
)
def test_what_stars_are(ratings, width):
    train = Clients.from_arrays({"ann": {"rating": np.array(ratings, np.float32)}})
    assert resolve_accuracy_width("stars", train) == width
    assert resolve_accuracy_width("none", train) is None and resolve_accuracy_width(0.1, train) == 0.1
    assert resolve_accuracy_width("stars", None) == 0.5
