"""What a process of a Ray cluster does, and what is done where one dies; without Ray itself."""

import io
import sys
import types
from dataclasses import replace

import pytest
from rich.console import Console
from tests.unit.experiment.serving.test_batches import home  # noqa: F401

from fedrecon.datasets.ratings._prepare import prepare
from fedrecon.errors import RunError
from fedrecon.experiment.cli.main import main
from fedrecon.experiment.config import load_saved
from fedrecon.experiment.serving import on_ray
from fedrecon.experiment.serving import personalize as personalizing
from fedrecon.experiment.serving.on_ray import Request, Worker, personalize_on_ray
from fedrecon.experiment.serving.personalize import personalize_run
from fedrecon.experiment.serving.shares import Share
from fedrecon.experiment.serving.wanted import Wanted
from fedrecon.experiment.settings.sections import SettingError


class TaskError(Exception):
    def __init__(self, cause):
        super().__init__(str(cause))
        self.cause = cause


class ActorError(Exception):
    """An actor died."""


class Task:
    def __init__(self, arguments):
        self.arguments = arguments


class FakeRay(types.ModuleType):
    """As much of Ray as is used, in one process; the calls of some numbers die before they do anything."""

    def __init__(self, deaths=()):
        super().__init__("ray")
        self.exceptions = types.SimpleNamespace(RayTaskError=TaskError, RayActorError=ActorError)
        self.deaths, self.calls, self.is_up = set(deaths), 0, False

    def init(self, address, **_):
        if address == "nowhere":
            raise ConnectionError("nobody answers")
        self.is_up = True

    def shutdown(self):
        self.is_up = False

    def cluster_resources(self):
        return {"CPU": 3.0}

    def remote(self, **settings):
        assert settings["num_cpus"] == 1 and settings["runtime_env"]["env_vars"] == {"NPROC": "1"}

        make = types.SimpleNamespace(remote=lambda *arguments: Task(arguments))
        return lambda _: types.SimpleNamespace(remote=lambda: types.SimpleNamespace(make=make))

    def wait(self, tasks, num_returns):
        return tasks[:num_returns], tasks[num_returns:]

    def get(self, task):
        self.calls += 1
        if self.calls in self.deaths:
            raise ActorError("killed")
        try:
            return Worker().make(*task.arguments)
        except ValueError as error:
            raise TaskError(error) from error

    def kill(self, worker):
        pass


@pytest.fixture
def fake(monkeypatch):
    def install(deaths=()):
        ray = FakeRay(deaths)
        monkeypatch.setitem(sys.modules, "ray", ray)
        monkeypatch.setitem(sys.modules, "ray.exceptions", ray.exceptions)
        return ray

    return install


@pytest.fixture
def request_of(home, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(personalizing, "PER_PART", 13)  # seven parts of ninety clients

    prepare(
        home / "new.csv",
        columns={"client": "user", "item": "film", "rating": "stars", "time": "when"},
        cache=home / "cache",
    ).write(home / "ray.arrow")
    return Request(str(home / "newton"), str(home / "ray.arrow"), str(tmp_path / "out.parquet"), Wanted())


def whole(request, path):
    run = request.run
    out = path / "whole.parquet"
    config = load_saved(type(path)(run))
    personalize_run(type(path)(run), config, request.data, out, Console(file=io.StringIO()), request.wanted)
    return out.read_bytes()


@pytest.mark.parametrize("deaths", [(), (1, 3), (1, 2, 3)])
def test_the_file_is_that_of_one_process_whoever_dies(request_of, tmp_path, fake, deaths):
    ray, said = fake(deaths), io.StringIO()
    personalize_on_ray(request_of, Console(file=said, width=200), workers=3)
    assert (tmp_path / "out.parquet").read_bytes() == whole(request_of, tmp_path)
    assert ray.calls == 3 + len(deaths) and not ray.is_up
    assert said.getvalue().count("died; another one goes on") == len(deaths)
    assert "Clients: " in said.getvalue().splitlines()[-1]


def test_a_share_that_dies_again_and_again_is_given_up(request_of, fake):
    fake(range(1, 99))
    with pytest.raises(
        RunError, match=r"the process of share 1/3 died 3 times without making a part: killed"
    ):
        personalize_on_ray(request_of, Console(file=io.StringIO()), workers=3)


def test_another_run_other_data_options_or_versions_are_refused(home, request_of, fake):  # noqa: F811
    Worker().make(request_of, Share(1, 2))
    others = {
        "run": ({"run": str(home / "steps")}, "belongs to another request: it is of another run"),
        "data": (
            {"data": str(home / "new.csv")},
            "belongs to another request: it is of other clients or examples",
        ),
        "wanted": (
            {"wanted": Wanted(top=3)},
            "belongs to another request: it was made without --top and not with --top 3",
        ),
    }
    for change, message in others.values():
        with pytest.raises(RunError, match=message):
            Worker().make(replace(request_of, **change), Share(2, 2))
    versions = {**request_of.versions, "jax": "0.0.1"}
    with pytest.raises(
        RunError, match=r"all hosts must have the same jax: .* has .*, the host of the command 0.0.1"
    ):
        Worker().make(replace(request_of, versions=versions), Share(2, 2))
    ray = fake()
    with pytest.raises(RunError, match="belongs to another request: it is of another run"):
        personalize_on_ray(
            replace(request_of, run=str(home / "steps")), Console(file=io.StringIO()), workers=2
        )
    assert not ray.is_up


def test_options_that_do_not_go_together_are_refused(home, request_of, fake, monkeypatch, capsys):  # noqa: F811
    fake()
    screen = Console(file=io.StringIO())
    with pytest.raises(SettingError, match=r"--workers must be from 1 to the 3 cores of the cluster, got 4"):
        personalize_on_ray(request_of, screen, workers=4)
    with pytest.raises(
        SettingError, match=r"--ray must name a cluster of Ray that runs, got 'nowhere': nobody"
    ):
        personalize_on_ray(request_of, screen, "nowhere")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingError, match=r"--ray needs the package ray: pip install 'fedrecon\[ray\]'"):
        personalize_on_ray(request_of, screen)
    base = ["personalize", request_of.run, "--data", request_of.data, "--out", request_of.out]
    assert main([*base, "--ray", "auto", "--share", "1/2"]) == 2
    assert main([*base, "--workers", "2"]) == 2
    said = capsys.readouterr().err
    assert "--ray makes all shares and joins them" in said and "and needs --ray" in said


def test_the_command_works_on_ray(request_of, tmp_path, fake, capsys):
    fake()
    arguments = [
        request_of.run,
        "--data",
        request_of.data,
        "--out",
        request_of.out,
        "--ray",
        "--workers",
        "2",
    ]
    assert main(["personalize", *arguments]) == 0
    assert (tmp_path / "out.parquet").read_bytes() == whole(request_of, tmp_path)
    assert f"Clients: {request_of.out}" in capsys.readouterr().out
    assert on_ray._parts_of(request_of, Share(1, 1)) == 0
