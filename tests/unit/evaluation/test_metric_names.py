import math

import pytest

from fedrecon.evaluation._metric_names import (
    DERIVED,
    METRICS,
    PREFERRED,
    Direction,
    by_preference,
    direction_of,
    label_of,
    shown_first,
    worst_decile,
)

LOWER, HIGHER = Direction.LOWER, Direction.HIGHER


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        ("rmse", LOWER),
        ("RMSE", LOWER),
        ("val_loss", LOWER),
        ("cross_entropy", LOWER),
        ("perplexity", LOWER),
        ("cross_entropy_restricted_after_oov", LOWER),
        ("perplexity_restricted", LOWER),
        ("accuracy", HIGHER),
        ("accuracy_restricted_no_end", HIGHER),
        ("top_3_accuracy", HIGHER),
        ("top_accuracy", HIGHER),
        ("ndcg@10", HIGHER),
        ("NDCG@10", HIGHER),
        ("F1", HIGHER),
        ("macro_f1", HIGHER),
        ("map@10", HIGHER),
        ("sampled_hr@10", HIGHER),
        ("recall@50", HIGHER),
        ("zeal", None),
        ("acc", None),
        ("error_reduction", None),
        ("loss_ratio", None),
        ("accuracy_loss", None),
        ("ndcg@", None),
        ("", None),
    ],
)
def test_which_way_is_better_is_known_or_not_said(metric, direction):
    assert direction_of(metric) is direction
    assert worst_decile(metric) == {LOWER: "p90", HIGHER: "p10", None: None}[direction]


def test_directions_compare():
    assert HIGHER.better(0.5, 0.4) and not HIGHER.better(0.4, 0.5) and not HIGHER.better(0.4, 0.4)
    assert LOWER.better(0.4, 0.5) and not LOWER.better(0.5, 0.4) and not LOWER.better(math.nan, 0.5)
    assert HIGHER.reaches(0.5, 0.5) and LOWER.reaches(0.5, 0.5) and not LOWER.reaches(0.6, 0.5)
    assert sorted([1.0, 3.0, 2.0], key=HIGHER.loss) == [3.0, 2.0, 1.0]
    assert (HIGHER.worst, LOWER.worst) == (-math.inf, math.inf)


def test_the_table_names_each_metric_once():
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names) and all(name == name.lower() for name in names)
    assert set(PREFERRED) <= set(names)
    for name, (source, _) in DERIVED.items():
        assert direction_of(name) is direction_of(source) is not None


def test_metrics_that_others_say_better_are_left_out():
    assert shown_first(["accuracy", "mse", "rmse"]) == ["rmse", "accuracy"]
    assert shown_first(["cross_entropy", "perplexity", "accuracy"]) == ["accuracy", "perplexity"]
    assert shown_first(["cross_entropy_restricted", "perplexity_restricted"]) == ["perplexity_restricted"]
    assert shown_first(["cross_entropy_restricted", "perplexity"]) == [
        "perplexity",
        "cross_entropy_restricted",
    ]
    assert shown_first(["loss", "mse"]) == ["mse"]
    assert shown_first(["loss"]) == ["loss"]
    assert shown_first(["ndcg@10", "hr@10", "loss"]) == ["ndcg@10", "hr@10"]
    assert by_preference(["loss", "perplexity", "mse", "rmse"]) == ["rmse", "perplexity", "loss", "mse"]


def test_names_for_readers():
    names = ("rmse", "hr@10", "sampled_hr@10", "ndcg@100", "accuracy", "zeal_of_mse", "top_3_accuracy")
    assert [label_of(m) for m in names] == [
        "RMSE",
        "HR@10",
        "sampled HR@10",
        "NDCG@100",
        "accuracy",
        "zeal_of_mse",
        "top_3_accuracy",
    ]
