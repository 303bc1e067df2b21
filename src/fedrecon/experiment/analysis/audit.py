"""Attacks a run as somebody would who sees its updates, its sums, or its released parameters."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from fedrecon.core._splits import NoSplit
from fedrecon.data._clients import Clients
from fedrecon.errors import RunError, whole_number
from fedrecon.evaluation._evaluate import measure
from fedrecon.evaluation._evaluation import Evaluation
from fedrecon.evaluation._metric_names import direction_of, shown_first
from fedrecon.experiment.analysis.audits import AUDIT, CONFIDENCE, NOT_COVERED, Audit, Observer, write_audit
from fedrecon.experiment.analysis.client_deltas import ClientDeltas
from fedrecon.experiment.config import Config, override
from fedrecon.experiment.serving.evaluate import hold_to_data, restore_parameters
from fedrecon.experiment.training.build import spec_of, task_of
from fedrecon.experiment.training.run_spec import RunSpec
from fedrecon.privacy import attacks
from fedrecon.privacy._guarantee import UserLevelDP

CLIENTS = 600
# The delta at which epsilon is bounded for a run that promises none.
_DELTA = 1e-5
# Clients whose pairs with all items are ranked: enough for three digits, and a moment to sort.
_RANKED = 1000
# The normal numbers that the canary's trials may draw: seconds on a processor.
_DRAWS, _TRIALS = 1e8, (200, 1000)


class _Membership(NamedTuple):
    """Areas under ROC curves: of the observer, and of popularity alone."""

    auc: float
    by_popularity: float | None = None


def audit_run(
    run: Path,
    config: Config,
    observer: Observer,
    data: str | None,
    screen: Console,
    clients: int | None = None,
    trials: int | None = None,
) -> Audit:
    """Attacks the parameters of a run's last checkpoint, prints what is found and writes `audit.json`.

    Args:
        run: The run folder.
        config: The configuration of the run.
        observer: The kind of observer: one that sees a client's `"update"`, the `"sum"` of a cohort's updates
            after noise, or the released `"model"`.
        data: The path of the run's data now; None for the path at which the run found them.
        screen: The console that shows the table.
        clients: The number of training clients that are attacked; None, the default, for 600 updates, for a
            cohort in a sum, and for all clients against the model. Of fewer clients, all are.
        trials: The number of canary runs with and without; None, the default, for 200 to 1,000, by the
            model's size.

    Raises:
        RunError: The run has no checkpoint, its data changed, its clients send no deltas, or the sum is to be
            attacked of a run that makes none.
        ValueError: A number is not a whole number of at least 1.
    """
    if observer == "sum" and config.aggregation.rule != "mean":
        raise RunError(
            f"{run}: an audit by the observer 'sum' must be of a run whose server sums deltas, but with "
            f"aggregation.rule {config.aggregation.rule!r} it reads each of them: audit 'update' or 'model'"
        )
    task = task_of(config if data is None else override(config, {"data": {"path": data}}))
    hold_to_data(run, task, "an audit compares what it finds with them: give their place with --data PATH")
    spec = spec_of(config, task)
    if spec.algorithm.exchanges != "parameters":
        raise RunError(
            f"{run}: an audit needs an algorithm whose clients send deltas, but {spec.algorithm.name} "
            f"exchanges {spec.algorithm.exchanges}"
        )
    round, state, client_states = restore_parameters(run, spec)
    privacy: UserLevelDP | None = spec.algorithm.privacy
    most = _number_of_clients(spec, observer) if clients is None else whole_number("clients", clients, 1)
    chosen = np.random.default_rng(spec.seed).permutation(len(spec.clients))[:most]
    findings: attacks.Findings | None = None
    if observer == "model":
        membership = _trained_on(spec, state, chosen)
    else:
        sent = ClientDeltas.of(spec, state, client_states, chosen, summed=observer == "sum")
        findings, membership = _attack_sum(sent, privacy) if observer == "sum" else _attack_updates(sent)
    protected = None if observer == "update" else privacy
    lower, tried = epsilon_lower(protected, state.global_params, round, trials, spec.seed)
    audit = Audit(
        observer=observer,
        round=round,
        clients_summed=None if findings is None else findings.clients_summed,
        item_precision=None if findings is None else findings.item_precision,
        item_recall=None if findings is None else findings.item_recall,
        vector_cosine=None if findings is None else findings.vector_cosine,
        users_ratings_exact=None if findings is None else findings.users_ratings_exact,
        membership_auc=membership.auc,
        popularity_auc=membership.by_popularity,
        epsilon_lower=lower,
        epsilon=None if protected is None else protected.ledger(round).epsilon,
        trials=tried,
    )
    write_audit(run, audit)
    for name, value in asdict(audit).items():
        screen.print(f"{name:20} {_shown(value)}", highlight=False)
    screen.print(f"Note: {audit.remark()}.", markup=False)
    if privacy is not None:
        screen.print(f"Note: {NOT_COVERED}.", markup=False)
    screen.print(f"Audit: {run / AUDIT}", markup=False)
    return audit


def epsilon_lower(
    privacy: UserLevelDP | None, params: Any, releases: int, trials: int | None, seed: int
) -> tuple[float, int]:
    """A lower bound of epsilon from a canary, and the number of trials it took.

    Args:
        privacy: The guarantee of what is seen; None where the canary's delta is seen without noise.
        params: The global parameters.
        releases: The number of noised sums of the run, at least 1.
        trials: The number of runs with and without the canary; None to choose it by the model's size.
        seed: The seed of the trials.
    """
    size = sum(np.size(x) for x in jax.tree.leaves(params)) * releases
    fewest, most = _TRIALS
    fitting = most if privacy is None else int(np.clip(_DRAWS / max(2 * size, 1), fewest, most))
    count = fitting if trials is None else whole_number("trials", trials, 1)
    if privacy is None:
        # Without noise the canary's delta is there or it is not: the bound is what so many trials can show.
        return attacks.epsilon_lower_bound(np.ones(count), np.zeros(count), _DELTA, CONFIDENCE), count
    scores = attacks.canary_scores(privacy, params, releases, count, seed)
    gaussian = privacy.accounting.accountant == "gaussian"
    bound = attacks.gaussian_epsilon_lower_bound if gaussian else attacks.epsilon_lower_bound
    return bound(*scores, privacy.delta, CONFIDENCE), count


def _number_of_clients(spec: RunSpec, observer: Observer) -> int:
    if observer == "model":
        return len(spec.clients)
    return CLIENTS if observer == "update" else int(spec.sampling.most(len(spec.clients)))


def _attack_updates(sent: ClientDeltas) -> tuple[attacks.Findings, _Membership]:
    """Attacks each client's update on its own."""
    guesses = [sent.recover(delta) for delta in sent.deltas]
    findings = attacks.findings(guesses, sent.items, sent.attackable_ratings, sent.attackable_vectors)
    scores = np.stack([_row_norms(delta) for delta in sent.deltas[:_RANKED]])
    return findings, _has_item(scores, sent)


def _attack_sum(sent: ClientDeltas, privacy: UserLevelDP | None) -> tuple[attacks.Findings, _Membership]:
    """Attacks the sum of all clients' updates, with the run's noise if it adds any."""
    total = sent.noised_sum(privacy)
    threshold = 0.0
    if privacy is not None:
        threshold = _noise_threshold(privacy.noise_deviation(sent.releases, sent.clip_factor), total)
    ascribed = sent.recover(total)._replace(items=attacks.touched_items(total, threshold))
    ascribed = ascribed._replace(ratings=np.full(len(ascribed.items), np.nan))
    parts = [] if privacy is not None else attacks.separable_users(total)
    matches = attacks.best_matches([sent.recover(part) for part in parts], sent.items)
    nobody = attacks.RecoveredUser(np.zeros(0, int), np.zeros_like(ascribed.vector), np.zeros(0))
    # Where parts lie apart, only these are believed; else all that was moved is ascribed to everyone.
    guesses = [match or (nobody if parts else ascribed) for match in matches]
    findings = attacks.findings(
        guesses, sent.items, sent.attackable_ratings, sent.attackable_vectors, len(sent.items)
    )
    norms = _row_norms(total)
    scores = np.tile(norms, (min(len(sent.items), _RANKED), 1))
    if parts:  # a client's own part tells more than how much all clients moved a row
        for row, guess in zip(scores, guesses, strict=False):
            row[guess.items] = 2 * norms.max()
    return findings, _has_item(scores, sent)


def _has_item(scores: np.ndarray, sent: ClientDeltas) -> _Membership:
    """How well scores of (client, item) pairs tell whether the client has the item."""
    member = np.zeros(scores.shape, bool)
    for row, items in zip(member, sent.items, strict=False):
        row[items] = True
    raters = np.bincount(np.concatenate(sent.items), minlength=scores.shape[1]).astype(float)
    popularity = attacks.membership_auc(np.broadcast_to(raters, scores.shape).ravel(), member.ravel())
    return _Membership(attacks.membership_auc(scores.ravel(), member.ravel()), popularity)


def _trained_on(spec: RunSpec, state: Any, chosen: np.ndarray) -> _Membership:
    """How well the released parameters tell trained clients from others, by how well they fit each."""
    outside = [clients for clients in (spec.test, *spec.validation.values()) if clients is not None]
    if not outside:
        raise RunError(
            "an audit of the model must have clients that were not trained on to compare with, this run has "
            "neither test nor validation clients"
        )
    members = _fit(spec, state, spec.clients.take(np.sort(chosen)))
    others = _fit(spec, state, outside[0])
    scores = np.concatenate([members, others])
    member = np.arange(len(scores)) < len(members)
    return _Membership(attacks.membership_auc(scores[np.isfinite(scores)], member[np.isfinite(scores)]))


def _fit(spec: RunSpec, state: Any, clients: Clients) -> np.ndarray:
    """For each client, how well the model fits all its examples, better ones having higher values."""
    evaluation: Evaluation = measure(
        spec.algorithm, state, clients, split=NoSplit(), seed=spec.seed, scoring=spec.scoring
    )
    values = evaluation.values()
    metric = next((name for name in shown_first(list(values)) if direction_of(name) is not None), None)
    if metric is None:
        raise RunError(
            f"an audit of the model needs a metric that is known to be better low or high, got "
            f"{sorted(values)}"
        )
    direction = direction_of(metric)
    assert direction is not None
    return np.array([-direction.loss(float(value)) for value in values[metric]])


def _noise_threshold(deviation: float, total: attacks.ItemDelta) -> float:
    """The norm of a row with its bias that noise alone exceeds in one of a thousand rows."""
    from scipy.special import chdtri

    return deviation * float(np.sqrt(chdtri(total.factors.shape[1] + 1, 1e-3)))


def _row_norms(delta: attacks.ItemDelta) -> np.ndarray:
    return np.sqrt(np.sum(np.square(delta.factors), 1) + np.square(delta.bias)).astype(np.float32)


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
