import tomllib

import pytest

from fedrecon.experiment import config as configs
from fedrecon.experiment.cli.settings_listing import listing
from fedrecon.experiment.settings.sections import (
    Section,
    SettingError,
    all_settings,
    flat,
    nearest,
    parse_override,
)
from fedrecon.experiment.tasks._spec import task_names, task_spec


def test_overrides_win_over_the_file_and_later_ones_over_earlier():
    config = configs.load(None, ["training.rounds=7", "training.rounds=8", "algorithm.split.support=0.25"])
    assert config.training.rounds == 8
    assert config.algorithm.split.support == 0.25


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=1", 1),
        ("a.b=1.5", 1.5),
        ("a.b=true", True),
        ('a.b="1"', "1"),
        ("a.b=adam", "adam"),
        ("a.b=[1, 2]", [1, 2]),
        ("a.b=x=y", "x=y"),
        ("a.b=", ""),
        (" a.b = 3 ", 3),
    ],
)
def test_an_overrides_value_is_toml_or_a_string(text, value):
    assert parse_override(text) == {"a": {"b": value}}


@pytest.mark.parametrize("text", ["training.rounds", "=3", "a..b=3"])
def test_an_override_without_name_or_value_is_refused(text):
    with pytest.raises(SettingError, match="--set takes NAME=VALUE"):
        parse_override(text)


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("training.round=3", "training.rounds"),
        ("trainning.rounds=3", "training.rounds"),
        ("rounds=3", "training.rounds"),
        ("algorithm.server_learning_rate=1", "algorithm.server_optimizer.learning_rate"),
        ("algorithm.update.batchsize=3", "algorithm.update.batch_size"),
        ("evaluation.evry=3", "evaluation.every"),
        ("model.factor=3", "model.factors"),
    ],
)
def test_an_unknown_setting_names_the_nearest_one(override, near):
    path = override.partition("=")[0]
    with pytest.raises(
        SettingError, match=rf"^--set: there is no setting {path}; the nearest one is {near}$"
    ):
        configs.load(None, [override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.rounds=0", "training.rounds must be greater than or equal to 1, got 0"),
        ("training.rounds=-3", "training.rounds must be greater than or equal to 1, got -3"),
        ("training.rounds=2.5", "training.rounds must be a valid integer, got 2.5"),
        ("training.rounds=many", "training.rounds must be a valid integer, got 'many'"),
        (
            "training.clients_per_round=0",
            "training.clients_per_round must be greater than or equal to 1, got 0",
        ),
        (
            "algorithm.update.batch_size=0",
            "algorithm.update.batch_size must be greater than or equal to 1 or 'all', got 0",
        ),
        (
            "algorithm.server_optimizer.learning_rate=0",
            "algorithm.server_optimizer.learning_rate must be greater than 0, got 0",
        ),
        (
            "algorithm.update.optimizer.learning_rate=-1",
            "algorithm.update.optimizer.learning_rate must be greater than 0, got -1",
        ),
        ("algorithm.update.optimizer.learning_rate=nan", "algorithm.update.optimizer.learning_rate must be"),
        ("algorithm.split.support=1", "algorithm.split.support must be less than 1, got 1"),
        ("algorithm.split.name=halves", "algorithm.split.name must be one of"),
        ("algorithm.name=fedsgd", "algorithm.name must be one of 'fedrecon', 'fedavg', "),
        ("algorithm.joint=1", "algorithm.joint must be a valid boolean, got 1"),
        ("data.fractions.train=1.5", "data.fractions.train must be less than or equal to 1, got 1.5"),
        (
            "data.fractions.train=0.9",
            "data.fractions: train, validation and test must sum to at most 1, got 1.1",
        ),
        (
            "evaluation.select=last",
            "evaluation.select: must be 'final', 'best', 'best:METRIC' or 'best:METRIC:max' (or ':min'), "
            "got 'last'",
        ),
        (
            "task=movielenz",
            "task must be one of movielens, next_word, ranking, ratings, synthetic_ratings or the path of a "
            "module; nearest to 'movielenz' is 'movielens'",
        ),
        ("seed=-1", "seed must be greater than or equal to 0, got -1"),
        ("training=3", "training must be"),
    ],
)
def test_a_bad_value_names_setting_rule_and_value(override, message):
    with pytest.raises(SettingError) as caught:
        configs.load(None, [override])
    assert message in str(caught.value)


def test_a_mistake_in_a_file_names_the_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[training]\nround = 3\n")
    with pytest.raises(
        SettingError, match=r"mine\.toml: there is no setting training\.round; .*training\.rounds"
    ):
        configs.load(path)
    path.write_text("[training\n")
    with pytest.raises(SettingError, match=r"mine\.toml: no TOML: .*line 1"):
        configs.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingError, match=r"mine\.toml: .*not UTF-8"):
        configs.load(path)
    with pytest.raises(SettingError, match=r"nothing\.toml: .*No such file"):
        configs.load(tmp_path / "nothing.toml")


def test_another_variant_starts_from_its_own_defaults():
    config = configs.load(None, ["algorithm.reconstruct.kind=solver", "algorithm.reconstruct.epochs=3"])
    assert (config.algorithm.reconstruct.epochs, config.algorithm.reconstruct.batch_size) == (3, 5)
    config = configs.load(None, ["algorithm.split.name=alternate_batches"])
    assert config.algorithm.split.model_dump() == {"name": "alternate_batches", "batch_size": 5}


def test_a_setting_of_another_variant_is_said_to_be_one():
    expected = r"setting algorithm\.reconstruct\.epochs exists only with .*kind = solver"
    with pytest.raises(SettingError, match=expected):
        configs.load(None, ["algorithm.reconstruct.epochs=3"])


def test_another_task_starts_from_its_own_data_and_model():
    config = configs.load(None, ["task=movielens"])
    assert config.data.path == ""
    assert config.model.factors == 50
    assert config.training.rounds == configs.load(None).training.rounds


def test_a_task_may_be_a_module_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "task.py").write_text(
        "from fedrecon.experiment.settings.sections import Section, setting\n"
        "from fedrecon.experiment.tasks import TaskSpec\n"
        "class Sizes(Section):\n    size: int = setting(3, 'size', ge=1)\n"
        "class Widths(Section):\n    width: int = setting(4, 'width')\n"
        "class Own(TaskSpec):\n"
        "    Data, Model = Sizes, Widths\n"
        "    def build(self, config):\n        raise NotImplementedError\n"
        "TASK = Own()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = configs.load(None, ["task=own.task", "data.size=5"])
    assert (config.data.size, config.model.width) == (5, 4)
    with pytest.raises(SettingError, match=r"'own\.tusk' cannot be imported"):
        configs.load(None, ["task=own.tusk"])


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "def build(config): ...",
            "must have an instance of a subclass of .*TaskSpec called TASK, it has none",
        ),
        ("class Own(TaskSpec):\n    build = print\nTASK = Own", ".* called TASK, it has <class .*half.Own'>"),
        ("class Own(TaskSpec):\n    build = print\nTASK = Own()", "must have an attribute Data .* None"),
        (
            "class Own(TaskSpec):\n    build, Data, Model = print, Section, int\nTASK = Own()",
            "must have an attribute Model that is a section of settings .* got <class 'int'>",
        ),
    ],
)
def test_what_a_task_of_ones_own_lacks_is_said(tmp_path, monkeypatch, code, message):
    head = "from fedrecon.experiment.settings.sections import Section\n"
    head += "from fedrecon.experiment.tasks import TaskSpec\n"
    (tmp_path / "half.py").write_text(head + code)
    monkeypatch.syspath_prepend(str(tmp_path.parent))
    module = f"{tmp_path.name}.half"  # another one in every test, since Python keeps what it imported
    with pytest.raises(SettingError, match=f"task: .*module '{module}' {message}"):
        configs.load(None, [f"task={module}"])


@pytest.mark.parametrize("overrides", [[], ["task=movielens"], ["algorithm.name=fedavg"]])
def test_what_is_written_reads_back_the_same(overrides, tmp_path):
    config = configs.load(None, overrides)
    path = tmp_path / "config.toml"
    path.write_text(configs.text(config), encoding="utf-8")
    assert configs.load(path) == config
    assert configs.text(configs.load(path)) == configs.text(config)


def test_hyperparameters_that_only_optax_knows_are_kept():
    config = configs.load(None, ["algorithm.server_optimizer.b2=0.9"])
    assert flat(config.model_dump())["algorithm.server_optimizer.b2"] == 0.9


@pytest.mark.parametrize("overrides", [[], ["task=movielens"], ["algorithm.name=fedavg"]])
def test_the_listing_is_an_experiment_with_every_setting_described(overrides, tmp_path):
    config = configs.load(None, overrides)
    page = listing(config)
    path = tmp_path / "listed.toml"
    path.write_text(page, encoding="utf-8")
    assert configs.load(path) == config
    assert all(item.path.rpartition(".")[2] in page for item in all_settings(type(config)))
    # What chooses a variant is described by its section.
    assert [item.path for item in all_settings(type(config)) if not item.description] == []
    assert max(map(len, page.splitlines())) <= 110


@pytest.mark.parametrize("task", task_names())
def test_every_default_of_every_section_is_valid(task):
    def sections(cls):
        yield cls
        for sub in cls.__subclasses__():
            yield from sections(sub)

    task_spec(task)
    for cls in sections(Section):
        if cls.__module__.startswith("fedrecon.") and not any(
            f.is_required() for f in cls.model_fields.values()
        ):
            cls()


def test_experiments_in_the_repository_are_valid(repository):
    paths = sorted((repository / "experiments").rglob("*.toml"))
    assert {"movielens", "movielens-newton", "fedrecon-recon"} <= {path.stem for path in paths}
    for path in paths:
        config = configs.load(path)
        name = tomllib.loads(configs.text(config))["name"]
        assert name == path.stem or path.parent.name == "table1"  # whose names are those of a table's rows
        assert config.algorithm.parts()


def test_the_authors_recipe(repository):
    values = flat(configs.load(repository / "experiments" / "movielens.toml").model_dump())
    expected = {
        "algorithm.update.optimizer.learning_rate": 0.5,
        "algorithm.server_optimizer.learning_rate": 1.0,
        "algorithm.reconstruct.optimizer.learning_rate": 0.1,
        "algorithm.reconstruct.epochs": 5,
        "algorithm.reconstruct.max_steps": 50,
        "algorithm.update.epochs": 1,
        "algorithm.update.max_steps": 50,
        "algorithm.reconstruct.batch_size": 5,
        "algorithm.update.batch_size": 5,
        "algorithm.split.name": "alternate_batches",
        "algorithm.split.batch_size": 5,
        "training.rounds": 500,
        "training.clients_per_round": 100,
        "data.cap": 300,
        "model.factors": 50,
        "model.item_bias": False,
        "model.user_bias": False,
        "model.global_bias": "none",
        "model.init": "uniform",
        "model.init_scale": 0.05,
        "model.user_penalty": 0.0,
    }
    assert {name: values[name] for name in expected} == expected


def test_nearest_prefers_the_last_part():
    assert nearest("lr.epochs", ["training.rounds", "algorithm.update.epochs"]) == "algorithm.update.epochs"


def test_a_table_of_another_kind_replaces_the_one_before():
    base = ["task=next_word", "data.words=10", 'model.network={kind="lstm", hidden=16}']
    config = configs.load(None, [*base, 'model.network={kind="transformer", heads=2}'])
    assert config.model.network.kind == "transformer" and config.model.network.heads == 2
    assert configs.load(None, [*base, "model.network.embedding=8"]).model.network.hidden == 16


def test_the_configuration_of_a_run_made_in_python_is_none(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text('algorithm = "fedrecon(...)"\nrounds = 3\n')
    with pytest.raises(SettingError, match=r"config\.toml: is of a run made in Python, .*fedrecon\.train"):
        configs.load(path)
