"""Audits of runs: what each observer finds, the file, the table, the figure, and what is refused."""

import json
import math
from dataclasses import asdict, replace

import jax
import numpy as np
import pytest
from rich.console import Console
from tests.small import rating_model, sgd, solver

from fedrecon.algorithms._building_blocks import uniform
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.data._sampling import Everyone, Passes, Poisson
from fedrecon.data._sampling import Uniform as UniformSampling
from fedrecon.errors import RunError
from fedrecon.experiment.analysis.audit import audit_run
from fedrecon.experiment.analysis.audit_figures import write_audit_figure
from fedrecon.experiment.analysis.audits import AUDIT, Audit, audit_table, read_audits
from fedrecon.experiment.analysis.client_deltas import ClientDeltas, ItemTables
from fedrecon.experiment.analysis.compare import report_runs
from fedrecon.experiment.config import load
from fedrecon.experiment.reporting.tables import markdown
from fedrecon.experiment.serving.evaluate import restore_parameters
from fedrecon.experiment.training.build import spec_of, task_of
from fedrecon.experiment.training.run_experiment import run_experiment
from fedrecon.privacy import attacks
from fedrecon.privacy._user_level import user_level_dp

USERS, ITEMS, RATED = 80, 300, 24
KEYS = {
    "observer",
    "clients_summed",
    "item_precision",
    "item_recall",
    "vector_cosine",
    "users_ratings_exact",
    "membership_auc",
    "epsilon_lower",
    "confidence",
}
SETTINGS = [
    "task=movielens",
    "model={factors = 4, item_bias = true, user_bias = true, global_bias = 3.0, init = 'normal', "
    "init_scale = 0.3, user_penalty = 2.0, user_bias_penalty = 2.0}",
    "algorithm={name = 'fedrecon', client_weight = 'uniform', split = {name = 'random_fraction', "
    "support = 0.5}, reconstruct = {kind = 'newton', iterations = 1}, update = {batch_size = 'all', "
    "reduction = 'sum', optimizer = {name = 'sgd', learning_rate = 0.5}}, "
    "server_optimizer = {name = 'sgd', learning_rate = 1.0}}",
    "training.rounds=2",
    "evaluation.every=2",
    "data.fractions={train = 0.8, validation = 0.1, test = 0.1}",
]
PLAIN = [*SETTINGS, "training.clients_per_round=10"]
PRIVATE = [*SETTINGS, "training.sampling=everyone", "privacy.delta=1e-3", "privacy.clip=1.0"]
SILENT = Console(quiet=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ratings of popular and rare items in MovieLens' format, from planted tastes."""
    folder, rng = tmp_path_factory.mktemp("ratings"), np.random.default_rng(0)
    vectors = rng.normal(size=(ITEMS, 4))
    popularity = rng.dirichlet(np.full(ITEMS, 0.7))
    popularity = 0.9 * popularity + 0.1 / ITEMS
    lines = []
    for user in range(1, USERS + 1):
        items = rng.choice(ITEMS, RATED, replace=False, p=popularity)
        scores = 3 + vectors[items] @ rng.normal(size=4) + 0.3 * rng.normal(size=RATED)
        for item, score in zip(items, np.clip(np.rint(scores), 1, 5), strict=True):
            lines.append(f"{user}::{item + 1}::{int(score)}::978300760")
    (folder / "ratings.dat").write_text("\n".join(lines) + "\n")
    movies = "".join(f"{item + 1}::Film {item} (1990)::Drama\n" for item in range(ITEMS))
    (folder / "movies.dat").write_text(movies)
    return folder


def trained(folder, data, settings):
    config = load(overrides=[f"data.path={data}", *settings])
    run_experiment(config, folder, SILENT)
    return folder, config


@pytest.fixture(scope="module")
def plain(tmp_path_factory, data):
    return trained(tmp_path_factory.mktemp("plain") / "run", data, PLAIN)


@pytest.fixture(scope="module")
def private(tmp_path_factory, data):
    return trained(tmp_path_factory.mktemp("private") / "run", data, [*PRIVATE, "privacy.epsilon=8.0"])


def audited(run, observer, **others) -> Audit:
    folder, config = run
    return audit_run(folder, config, observer, None, SILENT, **others)


@pytest.mark.parametrize("name", ["plain", "private"])
def test_an_update_gives_a_client_away_also_under_central_noise(request, name):
    """Noise is added to the sum: who sees single updates must be trusted, and the audit says so."""
    audit = audited(request.getfixturevalue(name), "update")
    assert (audit.clients_summed, audit.item_precision) == (1, 1.0)
    assert audit.item_recall > 0.99
    assert audit.vector_cosine > 0.999
    assert audit.users_ratings_exact >= 0.85
    assert audit.membership_auc > 0.99 > audit.popularity_auc
    assert audit.epsilon is None and audit.epsilon_lower > 4.5
    assert "the server must be trusted" in audit.remark()


def test_a_sum_without_noise_gives_away_rows_that_one_client_moved(plain):
    audit = audited(plain, "sum")
    assert audit.clients_summed == 10
    assert audit.item_precision > 0.99
    assert 0.05 < audit.item_recall < 0.95
    assert audit.vector_cosine > 0.1
    assert audit.membership_auc > audit.popularity_auc
    alone = audited(plain, "sum", clients=1)
    assert (alone.item_precision, alone.item_recall, alone.users_ratings_exact) == (1.0, 1.0, 1.0)


def test_a_noised_sum_tells_no_more_than_popularity(private):
    audit = audited(private, "sum")
    assert audit.clients_summed == round(0.8 * USERS)
    assert audit.membership_auc <= audit.popularity_auc + 0.02
    assert audit.users_ratings_exact == 0
    assert audit.vector_cosine < 0.5
    assert 0.4 * audit.epsilon < audit.epsilon_lower < audit.epsilon == pytest.approx(8, abs=0.01)


def test_clients_of_a_bound_that_follows_their_norms_send_what_it_lets_pass(tmp_path, data):
    """The count beside a delta, +1/2 or -1/2, is no weight: it neither turns nor stretches the delta."""
    settings = [*PRIVATE, "privacy.clip=0.05", "privacy.epsilon=8.0", "privacy.clip_quantile=0.5"]
    run, config = trained(tmp_path / "run", data, settings)
    spec = spec_of(config, task_of(config))
    _, state, client_states = restore_parameters(run, spec)
    sent = ClientDeltas.of(spec, state, client_states, np.arange(12), summed=False)
    factor = float(state.privacy.clip_factor)
    assert sent.clip_factor == factor != 1 and sent.releases == 2
    norms = [math.hypot(np.linalg.norm(x.factors), np.linalg.norm(x.bias)) for x in sent.deltas]
    assert max(norms) == pytest.approx(0.05 * factor, rel=1e-4)
    assert audited((run, config), "sum").clients_summed == round(0.8 * USERS)


def test_a_sum_under_correlated_noise_is_attacked(tmp_path, data):
    settings = [
        *(setting for setting in PRIVATE if "sampling" not in setting),
        "training.sampling=fixed_passes",
        "training.clients_per_round=16",
        "training.rounds=4",
        "privacy.epsilon=8.0",
        "privacy.noise_bands=4",
    ]
    audit = audited(trained(tmp_path / "run", data, settings), "sum", trials=200)
    assert audit.clients_summed == 16
    assert audit.users_ratings_exact == 0
    assert audit.epsilon_lower < audit.epsilon == pytest.approx(8, abs=0.01)


def test_updates_with_error_feedback_are_attacked(tmp_path, data):
    """Clients work on whole tables then, which their view of the model does not declare."""
    feedback = [*PLAIN, "compression.bits=8", "compression.error_feedback=true"]
    run = trained(tmp_path / "run", data, feedback)
    audit = audited(run, "update", clients=20, trials=5)
    assert audit.item_precision > 0.9 and audit.item_recall > 0.9 and audit.vector_cosine > 0.9
    assert audited(run, "sum", trials=5).clients_summed == 10


def test_robust_runs_are_attacked_by_who_sees_an_update_and_have_no_sum(tmp_path, data):
    run = trained(tmp_path / "run", data, [*PLAIN, "aggregation.rule=median"])
    assert audited(run, "update", clients=20, trials=5).item_precision == 1.0
    assert 0 < audited(run, "model", trials=5).membership_auc < 1
    (data / "ratings.dat").rename(data / "hidden.dat")  # it is refused before the data are read
    try:
        with pytest.raises(RunError, match=r"'sum' .* with aggregation\.rule 'median' it reads each"):
            audited(run, "sum")
    finally:
        (data / "hidden.dat").rename(data / "ratings.dat")


def test_the_sum_of_a_run_that_selects_rows_is_cut_to_them(tmp_path, data):
    settings = [*PRIVATE, "privacy.epsilon=8.0", "privacy.row_selection=0.4", "privacy.row_threshold=2.0"]
    run = trained(tmp_path / "run", data, settings)
    spec = spec_of(run[1], task_of(run[1]))
    _, state, client_states = restore_parameters(run[0], spec)
    sent = ClientDeltas.of(spec, state, client_states, np.arange(64), summed=True)
    total = sent.noised_sum(spec.algorithm.privacy)
    selected = np.any(total.factors != 0, 1)
    assert 0 < selected.sum() < ITEMS / 2
    np.testing.assert_array_equal(selected, total.bias != 0)
    assert audited(run, "sum", trials=5).epsilon == pytest.approx(8, abs=0.01)


def test_the_model_tells_little_of_who_was_trained_on(private, plain):
    for run in (private, plain):
        audit = audited(run, "model")
        assert audit.item_precision is audit.vector_cosine is audit.users_ratings_exact is None
        assert audit.clients_summed is None
        assert 0.1 < audit.membership_auc < 0.9  # of 8 clients that were not trained on
    assert audit.epsilon is None and "No noise protects" in audit.remark()


def test_the_file_holds_the_last_audit_of_each_observer(plain):
    folder, _ = plain
    for observer in ("model", "update", "sum"):
        last = audited(plain, observer, trials=5)
    values = json.loads((folder / AUDIT).read_text())
    assert set(values) >= KEYS
    assert values["observer"] == "sum" and values["trials"] == 5
    assert [audit.observer for audit in read_audits(folder)] == ["sum", "update", "model"]
    assert read_audits(folder)[0] == last


def test_a_damaged_file_is_refused(plain, tmp_path):
    folder, _ = plain
    audited(plain, "update", clients=3)
    text = (folder / AUDIT).read_text()
    (tmp_path / AUDIT).write_text(text.replace('"item_precision": 1.0', '"item_precision": 0.1'))
    with pytest.raises(RunError, match=f"{AUDIT}: is damaged"):
        read_audits(tmp_path)


def test_report_has_the_table_and_the_figure(private, tmp_path):
    audited(private, "update", clients=5)
    audited(private, "sum")
    page = report_runs([private[0]], tmp_path / "report.html").read_text()
    assert 'id="audit"' in page and "data:image/png;base64," in page
    assert "the server must be trusted" in page
    audits = [("mine", audit) for audit in read_audits(private[0])]
    paths = write_audit_figure(tmp_path / "plots", audits)
    assert [path.name for path in paths] == ["audit.png", "audit.svg"]
    assert "epsilon: bar" in paths[1].read_text()
    assert "which no epsilon covers" in audit_table(audits).note
    text = markdown(audit_table(audits).text())
    assert "| mine | sum | 64 |" in text and "| mine | update | 1 | 1.000 |" in text


def test_a_report_without_audits_has_no_such_section(plain, tmp_path):
    (plain[0] / AUDIT).unlink(missing_ok=True)
    assert 'id="audit"' not in report_runs([plain[0]], tmp_path / "report.html").read_text()


def test_other_data_are_refused(plain, data, tmp_path):
    lines = (data / "ratings.dat").read_text().splitlines(keepends=True)
    (tmp_path / "ratings.dat").write_text("".join(lines[:-1]))
    folder, config = plain
    with pytest.raises(RunError, match="its data are no longer what they were"):
        audit_run(folder, config, "update", str(tmp_path), SILENT)


def test_an_algorithm_without_deltas_is_refused(tmp_path, data):
    settings = [setting for setting in PLAIN if not setting.startswith("algorithm=")]
    run = trained(tmp_path / "run", data, [*settings, "algorithm.name=local_only"])
    with pytest.raises(RunError, match="an audit needs an algorithm whose clients send deltas"):
        audited(run, "update")


def test_many_gradient_steps_hide_the_ratings_but_not_the_items(tmp_path, data):
    step = "algorithm.update={batch_size = 4, optimizer = {name = 'sgd', learning_rate = 0.05}}"
    audit = audited(trained(tmp_path / "run", data, [*PLAIN, step]), "update", clients=20)
    assert (audit.item_precision, audit.users_ratings_exact) == (1.0, None)
    assert audit.item_recall > 0.99


def dp(sampling, rounds=6, **settings):
    base = fedrecon(rating_model(), solver(), solver(), sgd(1.0), client_weight=uniform)
    settings = {"epsilon": 4.0, **settings}
    return user_level_dp(
        base, clip=0.7, delta=1e-3, rounds=rounds, sampling=sampling, num_clients=100, **settings
    ).privacy


@pytest.mark.parametrize(
    ("sampling", "settings", "releases", "factor"),
    [
        (Everyone(), {}, 3, 1.0),
        (Everyone(), {"clip_quantile": 0.5}, 3, 0.2),
        (Passes(25, order="fixed"), {"noise_bands": 4}, 0, 1.0),
        (Passes(25, order="fixed"), {"noise_bands": 4}, 1, 1.0),
        (Passes(25, order="fixed"), {"noise_bands": 4}, 5, 1.0),
    ],
)
def test_noise_of_a_sum_is_as_large_as_the_audit_takes_it_for(sampling, settings, releases, factor):
    privacy = dp(sampling, **settings)
    zeros = attacks.ItemDelta(np.zeros((5000, 4), np.float32), np.zeros(5000, np.float32))
    sent = ClientDeltas(
        tables=ItemTables("factors", "bias"),
        params=zeros,
        total={"factors": zeros.factors, "bias": zeros.bias},
        deltas=[],
        items=[],
        ratings=None,
        vectors=None,
        step=None,
        per_example=False,
        global_bias=0.0,
        scale=(1.0, 5.0),
        unit=1.0,
        seed=0,
        releases=releases,
        clip_factor=factor,
    )
    noise = sent.noised_sum(privacy)
    deviation = privacy.noise_deviation(releases, factor)
    assert np.std(noise.factors) == pytest.approx(deviation, rel=0.03)  # six deviations of 20,000 numbers


PARAMS = rating_model().init_global(jax.random.key(0))


@pytest.mark.parametrize("sampling", [Everyone(), Passes(25), Passes(25, order="fixed")])
def test_canaries_bound_epsilon_and_notice_too_little_noise(sampling):
    privacy = dp(sampling)
    bound = attacks.gaussian_epsilon_lower_bound
    honest = bound(*attacks.canary_scores(privacy, PARAMS, 6, 1500), 1e-3)
    assert 0.4 * 4 <= honest < 4
    weak = replace(privacy, noise_multiplier=privacy.noise_multiplier / 3)
    assert bound(*attacks.canary_scores(weak, PARAMS, 6, 1500), 1e-3) > 4


@pytest.mark.parametrize(
    ("sampling", "taken_part"), [(Poisson(probability=0.3), 1.8), (UniformSampling(30), 1.8)]
)
def test_canaries_take_part_at_random_where_cohorts_are_secret(sampling, taken_part):
    pytest.importorskip("dp_accounting", reason="needs the extra 'privacy'")
    privacy = replace(dp(sampling), noise_multiplier=1e-6)
    present, absent = attacks.canary_scores(privacy, PARAMS, 6, 400)
    assert np.abs(present - np.rint(present)).max() < 1e-3
    assert np.mean(present) == pytest.approx(taken_part, abs=0.3)
    expected = -taken_part if isinstance(sampling, UniformSampling) else 0.0
    assert np.mean(absent) == pytest.approx(expected, abs=0.3)


def test_every_value_of_an_audit_is_json():
    audit = Audit("update", 1, 1, 1.0, 1.0, None, None, 0.9, 0.8, 2.0, None)
    assert Audit(**json.loads(json.dumps(asdict(audit)))) == audit
