"""How the processes of a run agree, without any of them."""

import threading
from dataclasses import replace

import jax
import pytest

from fedrecon.errors import RunError
from fedrecon.experiment import config as configs
from fedrecon.experiment.distributed import jax_runtime
from fedrecon.experiment.distributed import processes as module
from fedrecon.experiment.distributed.processes import ALONE, ProcessGroup, join
from fedrecon.experiment.settings.sections import SettingError
from fedrecon.experiment.training import run
from fedrecon.experiment.training.build import spec_of, task_of


class Store:
    """What the processes tell each other, within this one."""

    def __init__(self):
        self.values = {}

    def key_value_set(self, key, value):
        assert key not in self.values
        self.values[key] = value

    def key_value_try_get(self, key):
        if key not in self.values:
            raise jax.errors.JaxRuntimeError(f"NOT_FOUND: {key}")
        return self.values[key]

    def key_value_dir_get(self, key):
        return [(k, v) for k, v in self.values.items() if k.startswith(key)]


@pytest.fixture
def store(monkeypatch):
    found = Store()
    monkeypatch.setattr(jax_runtime, "key_value_client", lambda: found)
    monkeypatch.setattr(module, "_PAUSE", 0.001)
    return found


def both(call, monkeypatch):
    """What `call(processes)` returns or raises in each of two processes."""
    found = {}

    def one(number):
        try:
            found[number] = call(ProcessGroup(number, 2))
        except Exception as error:
            found[number] = error

    monkeypatch.setattr(module, "_calls", iter([0, 0]))
    threads = [threading.Thread(target=one, args=(number,)) for number in (1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    return found[0], found[1]


def test_alone():
    assert ProcessGroup.present() is ALONE
    assert ALONE.first
    assert ALONE.tell({"a": 1}) == {"a": 1}
    assert ALONE.share([1]) == [1]
    assert ALONE.stops(True, 3) and not ALONE.stops(False, 3)
    ALONE.agree({"a": object()})
    ALONE.pass_on()


def test_the_first_tells(store, monkeypatch):
    told = both(
        lambda processes: processes.tell({"plan": [1, None]} if processes.first else "unheard"), monkeypatch
    )
    assert told == ({"plan": [1, None]}, {"plan": [1, None]})


def test_they_agree(store, monkeypatch):
    assert both(lambda group: group.agree({"settings.training.rounds": 5}), monkeypatch) == (
        None,
        None,
    )


def test_what_goes_wrong_in_one_went_wrong_in_all(store, monkeypatch):
    assert ALONE.all(True) and not ALONE.all(False)
    assert both(lambda processes: processes.all(True), monkeypatch) == (True, True)
    store.values.clear()
    assert both(lambda processes: processes.all(processes.first), monkeypatch) == (False, False)


def test_nobody_waits_for_one_that_waits_for_him(store, monkeypatch):
    monkeypatch.setattr(module, "SILENCE", 0.01)
    with pytest.raises(RunError, match="another process of this run waits for this one"):
        ProcessGroup(1, 2).all(False)


def test_the_data_may_lie_elsewhere_in_each(store, monkeypatch):
    """What a run has its processes agree on leaves out where things are."""
    small = configs.load(None, ["data.clients=20", "data.items=5", "training.clients_per_round=3"])
    spec = spec_of(small, task_of(small))

    def call(processes, **changed):
        tracking = {"name": "wandb", "project": str(processes.number)}
        values = {"data": {"path": f"/{processes.number}"}, "tracking": tracking, **changed}
        settings = configs.resolve({"task": "movielens", **values}, "test").model_dump()
        return processes.agree(run._values_to_agree_on(replace(spec, settings=settings)))

    assert both(call, monkeypatch) == (None, None)
    store.values.clear()
    found = both(lambda processes: call(processes, seed=processes.number), monkeypatch)
    assert "settings.seed is 0 in process 0 and 1 in process 1" in str(found[0])


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"rounds": 5}, {"rounds": 6}, "rounds is 5 in process 0 and 6 in process 1"),
        ({"rounds": 5}, {}, "rounds is 5 in process 0 and None in process 1"),
        ({}, {"clients.test": "ab"}, "clients.test is None in process 0 and 'ab' in process 1"),
    ],
)
def test_they_differ(first, second, message, store, monkeypatch):
    found = both(lambda processes: processes.agree(first if processes.first else second), monkeypatch)
    for error in found:
        assert isinstance(error, RunError)
        assert message in str(error)


def test_one_failed_before(store, monkeypatch):
    store.key_value_set("fedrecon/failed/0", "no space left")
    with pytest.raises(RunError, match="process 0 of this run failed: no space left"):
        ProcessGroup(1, 2).tell()


def test_one_is_lost(store):
    with pytest.raises(jax.errors.JaxRuntimeError, match="Gloo"), ALONE.together():
        raise jax.errors.JaxRuntimeError("Gloo all-reduce failed")
    with (
        pytest.raises(RunError, match=r"was lost.*last checkpoint \(Gloo all-reduce"),
        ProcessGroup(0, 2).together(),
    ):
        raise jax.errors.JaxRuntimeError("Gloo all-reduce failed: closed\nmore")
    with pytest.raises(jax.errors.JaxRuntimeError, match="EXHAUSTED"), ProcessGroup(0, 2).together():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (("host", None, None), "JAX_COORDINATOR_ADDRESS must be HOST:PORT of the first process, got 'host'"),
        (("host:1", "0", "0"), "JAX_NUM_PROCESSES must be a whole number of at least 1, got '0'"),
        (("host:1", "2", "first"), "JAX_PROCESS_ID must be a whole number of at least 0, got 'first'"),
        (("host:1", "2", "2"), "JAX_PROCESS_ID must be below JAX_NUM_PROCESSES, 2, got 2"),
        (("host:1", "2", None), r"--distributed needs .* set: JAX_COORDINATOR_ADDRESS=host:1, JAX_NUM"),
        ((None, None, None), r"--distributed needs .* such as SLURM; set: none of them"),
    ],
)
def test_where_they_meet_must_be_said(environment, message, monkeypatch):
    monkeypatch.setattr(jax._src.xla_bridge, "backends_are_initialized", lambda: False)
    for name, value in zip((module.ADDRESS, module.COUNT, module.NUMBER), environment, strict=True):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(SettingError, match=message):
        join()
    assert not jax.distributed.is_initialized()
