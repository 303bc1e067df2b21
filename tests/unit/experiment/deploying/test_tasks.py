"""Tasks and algorithms as deployments run them, and nodes whose files hold raw data."""

import sqlite3
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
import pytest
from tests.integration.apps import write_ratings
from tests.unit.experiment.deploying.here import deployment_of, nodes_of, run_here

from fedrecon.deployment._client import client_state_like
from fedrecon.errors import DataError, RunError
from fedrecon.experiment import config as configs
from fedrecon.experiment.deploying.local import NODE, work_folder
from fedrecon.experiment.deploying.plan import INITIAL, DeploymentPlan
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.storage.metrics_log import WEIGHTINGS
from fedrecon.experiment.training.run_experiment import console, run_experiment
from fedrecon.simulation._client_step import first_state

ROUNDS = ["training.rounds=2", "training.clients_per_round=6", "evaluation.every=2"]
RANKING = ["task=ranking", "model.factors=3", "data.least_items=2", "data.protocol.sampled=5"]
WORDS = ["task=next_word", "data.generated.clients=12", "data.generated.sentences=4", "data.length=6"]
LSTM = ["model.network.embedding=4", "model.network.hidden=5"]
# Small steps and a penalty: a rounding error must not grow from round to round.
STEPS = ["algorithm.reconstruct.kind=solver", "algorithm.reconstruct.optimizer.learning_rate=0.05"]
STEPS += ["algorithm.update.optimizer.learning_rate=0.05"]
FACTORS = ["model.factors=3", "model.user_penalty=1.0"]
TASKS = {
    "movielens": ["task=movielens", *FACTORS, "model.global_bias=mean"],
    "ratings": ["task=ratings", "model.factors=3"],
    "synthetic_ratings": ["task=synthetic_ratings", "data.clients=20", "data.items=30", *FACTORS],
    "ranking": [*RANKING, "data.recency.extra=1.0", "data.recency.training=true"],
    "ranking of drawn items": [*RANKING, "model.loss=bpr", "data.negatives=2"],
    "next_word": [*WORDS, *LSTM, *STEPS],
}
OWN_DATA = ("synthetic_ratings", "next_word")


def settings(folder, name, *more):
    changes = [*TASKS[name], *ROUNDS, *more]
    if name not in OWN_DATA:
        changes.append(f"data.path='{write_ratings(folder / 'ratings.csv', 24, 30)}'")
    return changes


def finish(deployment):
    """The run folder of a deployment, whose test clients are evaluated."""
    deployment.leave_run_folder()
    return run_experiment(deployment.config, deployment.out, console())


# The others take the same ways, and as long.
QUICK = ("ratings", "ranking", "next_word")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TASKS]
)
def test_every_task_is_deployed_with_the_numbers_of_the_simulator(tmp_path, name):
    deployment = deployment_of(tmp_path, configs.load(None, settings(tmp_path, name)))
    records = run_here(deployment)
    assert [record.outcome.answered for record in records] == [6, 6]
    assert deployment.largest_difference() <= 1e-5
    assert finish(deployment).evaluations


@pytest.mark.parametrize("algorithm", ["fedalt", pytest.param("ditto", marks=pytest.mark.slow)])
def test_states_of_clients_are_in_the_run_folder(tmp_path, algorithm):
    """The held-out examples of training clients are predicted from what these clients kept on their nodes."""
    more = [f"algorithm.name={algorithm}", "data.held_out.test=0.3", "training.sampling=everyone"]
    deployment = deployment_of(tmp_path, configs.load(None, settings(tmp_path, "movielens", *more)))
    run_here(deployment)
    assert deployment.largest_difference() <= 1e-5
    found = finish(deployment)
    assert jax.tree.leaves(client_state_like(found.algorithm)) and found.client_states is not None
    simulated = run_experiment(deployment.config, tmp_path / "simulated", console())
    for name, evaluation in simulated.evaluations.items():
        for weighting in WEIGHTINGS:
            expected = evaluation.summary()[weighting]
            assert found.evaluations[name].summary()[weighting] == pytest.approx(expected, rel=1e-4)


def test_another_start_is_taken_over(tmp_path):
    changes = settings(tmp_path, "movielens")
    first = deployment_of(tmp_path, configs.load(None, changes))
    first.prepare()
    shape = first_state(first._spec.algorithm, 0)[0].global_params["item"]["factors"].shape
    start = {"item/factors": np.random.default_rng(3).normal(0, 0.1, shape).astype(np.float32)}
    np.savez(tmp_path / "start.npz", **start)
    (tmp_path / "second").mkdir()
    changes.append(f"training.initial_global_params='{tmp_path / 'start.npz'}'")
    second = deployment_of(tmp_path / "second", configs.load(None, changes))
    run_here(second)
    with np.load(work_folder(second.out) / "server" / INITIAL) as written:
        np.testing.assert_array_equal(written["item/factors"], start["item/factors"])
    assert second.largest_difference() <= 1e-5
    assert not (work_folder(first.out) / "server" / INITIAL).exists()
    # A server's folder that was copied without the start, or with another one, is not trained from.
    server = work_folder(second.out) / "server"
    plan = DeploymentPlan.read(server)
    for change, there in ((lambda path: path.write_bytes(b"PK"), "another one"), (Path.unlink, "missing")):
        change(server / INITIAL)
        with pytest.raises(RunError, match=f"parameters that deployment.json is for, but is {there}"):
            plan.start_at(server)


def raw(deployment, number, file, text):
    """Gives a node other data, as its owner would."""
    folder = work_folder(deployment.out) / NODE.format(number)
    prepared = nodes_of(deployment)[number].store.clients
    (folder / "node.toml").write_text(text)
    (folder / "clients.arrow").unlink()
    file(folder, prepared)
    return nodes_of(deployment)[number].store.clients, prepared


@pytest.mark.parametrize("name", [pytest.param("ranking", marks=pytest.mark.slow), "ranking of drawn items"])
def test_node_makes_interactions_of_raw_ratings(tmp_path, name):
    deployment = deployment_of(tmp_path, configs.load(None, settings(tmp_path, name)))
    deployment.prepare()

    def write(folder, prepared):
        with closing(sqlite3.connect(folder / "ratings.sqlite")) as database, database:
            database.execute("create table ratings (user integer, item integer, rating real, time integer)")
            rows = []
            for user, data in ((user, prepared[user]) for user in prepared.ids.tolist()):
                items = prepared.vocabularies["item"][data["item"]].tolist()
                rows += [(user, item, 4.0, place) for place, item in enumerate(items)]
            database.executemany("insert into ratings values (?, ?, ?, ?)", reversed(rows))

    found, wanted = raw(deployment, 0, write, 'data = "ratings.sqlite"\nclient = "user"\n')
    assert found.fields == wanted.fields and sorted(found.ids.tolist()) == sorted(wanted.ids.tolist())
    for user in wanted.ids.tolist():
        for field, values in wanted[user].items():
            np.testing.assert_array_equal(found[user][field], values)


def test_node_numbers_texts_by_the_vocabulary_of_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    deployment = deployment_of(tmp_path, configs.load(None, settings(tmp_path, "next_word")))
    deployment.prepare()
    words = deployment._spec.clients.vocabularies["word"].tolist()

    def write(folder, prepared):
        (folder / "texts").mkdir()
        (folder / "texts" / "ann.txt").write_text(f"{words[4]} certiorari {words[3]}\n")

    found, _ = raw(deployment, 1, write, 'data = "texts"\n')
    assert found.ids.tolist() == ["ann"]
    assert found["ann"]["word"][0, :4].tolist() == [1, 4, 0, 3]
    folder = work_folder(deployment.out) / NODE.format(1)
    (folder / "node.toml").write_text('data = "texts"\nclient = "writer"\n')
    with pytest.raises(DataError, match=r"node\.toml: \['client'\] must be left out with the task next_word"):
        nodes_of(deployment)
    found.select("bucket").write(folder / "clients.arrow")
    (folder / "node.toml").write_text('data = "clients.arrow"\n')
    with pytest.raises(DataError, match="clients of the task next_word must have the field 'word'"):
        nodes_of(deployment)


OWN = '''
from fedrecon.experiment.settings.sections import Section, setting
from fedrecon.experiment.tasks import Task, TaskSpec


class Homes(Section):
    """The homes."""

    homes: int = setting(30, "how many", ge=10)


class Line(Section):
    """A line for each home, of one slope."""

    slope: float = setting(1.0, "where the slope starts")


class Slopes(TaskSpec):
    """Homes, each with a line through its points."""

    Data, Model = Homes, Line

    def build(self, config):
        import numpy as np
        from fedrecon import Clients

        draw = np.random.default_rng(config.seed)
        homes = {home: {"x": (x := draw.normal(size=20)), "y": 2 * x + home} for home in range(30)}
        return Task(model_of(config, WIDTH), Clients.from_arrays(homes), None, None)

    SERVES


def model_of(config, width):
    import jax.numpy as jnp
    from fedrecon import Mean, is_local, partition

    def init(key):
        return {"slope": jnp.full((width,), config.model.slope), "level": jnp.zeros(())}

    def loss(params, batch, key=None):
        return Mean.of(jnp.square(batch["x"] * params["slope"].sum() + params["level"] - batch["y"]))

    metrics = lambda params, batch: {"mse": loss(params, batch)}
    return partition(init, loss, metrics, local=is_local("level"))


TASK = Slopes()
'''
SERVES = """def build_without_data(self, config, vocabularies):
        from fedrecon import Clients

        return Task(model_of(config, 1), Clients.from_arrays({0: {"x": [], "y": []}}), None, None)
"""


@pytest.fixture
def own_task(tmp_path, monkeypatch):
    """Writes a module with a task of one's own; returns its name."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "homes").mkdir()

    def write(name, width, serves=SERVES):
        text = OWN.replace("WIDTH", str(width)).replace("SERVES", serves)
        (tmp_path / "homes" / f"{name}.py").write_text(text)
        return configs.load(None, [f"task=homes.{name}", *ROUNDS])

    return write


def test_own_tasks_are_deployed_if_they_build_their_model_without_data(tmp_path, own_task):
    deployment = deployment_of(tmp_path, own_task("whole", 1))
    run_here(deployment)
    assert deployment.largest_difference() <= 1e-5
    assert finish(deployment).rounds == 2


def test_own_tasks_that_cannot_are_told_what_they_lack(tmp_path, own_task):
    lacking = deployment_of(tmp_path, own_task("lacking", 1, ""))
    with pytest.raises(SettingError, match=r"homes\.lacking is not: its TaskSpec must have build_without_da"):
        lacking.prepare()


def test_own_tasks_that_build_another_model_without_data_are_refused(tmp_path, own_task):
    other = deployment_of(tmp_path, own_task("other", 2))
    with pytest.raises(
        SettingError, match=r"must have the parameters of the one with data, .*\(2,\).*\(1,\)"
    ):
        other.prepare()
    assert not list(work_folder(other.out).glob("server/*.json"))
