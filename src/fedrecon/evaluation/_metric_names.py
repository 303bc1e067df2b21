"""What is known of metrics by their names: how they are written, and which way is better."""

from collections.abc import Iterable

# What a person reads first; other metrics follow in their own order.
FIRST = ("rmse", "accuracy", "perplexity")

# What another metric says in a better unit; the loss, what any other says.
BEHIND = {
    "mse": "rmse",
    "cross_entropy": "perplexity",
    "cross_entropy_restricted": "perplexity_restricted",
    "cross_entropy_restricted_after_oov": "perplexity_restricted_after_oov",
    "loss": None,
}

NAMES = {"rmse": "RMSE", "mse": "MSE", "mae": "MAE", "hr": "HR", "ndcg": "NDCG", "auc": "AUC", "mrr": "MRR"}

LOWER = {"rmse", "mse", "mae", "error", "loss", "perplexity", "cross_entropy"}
HIGHER = {"accuracy", "hr", "ndcg", "recall", "precision", "auc", "mrr", "f1", "gain", "hit_rate"}


def higher_is_better(metric: str) -> bool | None:
    """Whether more of a metric is better; None if its name, up to an `@`, does not say."""
    stem = metric.partition("@")[0]
    words = {stem, stem.rpartition("_")[2], stem.partition("_")[0], "_".join(stem.split("_")[:2])}
    if words & LOWER:
        return False
    return True if words & HIGHER else None


def written(metric: str) -> str:
    """A metric's name for readers: `"RMSE"`, `"HR@10"`, `"sampled HR@10"`, `"accuracy"`."""
    stem, at, rest = metric.partition("@")
    before, _, last = stem.rpartition("_")
    if before and last in NAMES:
        stem, before = last, f"{before.replace('_', ' ')} "
    else:
        before = ""
    return before + NAMES.get(stem, stem) + at + rest


def shown_first(found: Iterable[str]) -> list[str]:
    """Metrics in the order in which a person reads them, those left out that another says better."""
    names = list(dict.fromkeys(found))
    kept = [m for m in names if not (m in BEHIND and (BEHIND[m] in names or (m == "loss" and names[1:])))]
    return [m for m in FIRST if m in kept] + [m for m in kept if m not in FIRST]


def worst_decile(metric: str) -> str | None:
    """Which decile of the distribution over clients a tenth of them fares worse than; None if unknown."""
    higher = higher_is_better(metric)
    return None if higher is None else "p10" if higher else "p90"
