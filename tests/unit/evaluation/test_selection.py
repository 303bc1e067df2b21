"""What decides which round is the best: one order of preference, and directions that are never guessed."""

import pytest

from fedrecon.evaluation._metric_names import Direction
from fedrecon.evaluation._selection import Criterion, criterion, is_selection, metric_in


@pytest.mark.parametrize(
    ("select", "right"),
    [
        ("final", True),
        ("best", True),
        ("best:accuracy", True),
        ("best:acc:max", True),
        ("best:a:b:min", True),
        ("best:", False),
        ("best::max", False),
        ("bester", False),
        ("final:acc", False),
        ("", False),
    ],
)
def test_forms(select, right):
    assert is_selection(select) is right


@pytest.mark.parametrize(
    ("select", "measured", "expected"),
    [
        ("best", ["accuracy", "mse", "rmse"], "rmse:min"),
        ("best", ["cross_entropy", "perplexity", "accuracy"], "accuracy:max"),
        ("best", ["mae"], "mae:min"),
        ("best", ["hr@10", "ndcg@10"], "hr@10:max"),
        ("best:perplexity", ["accuracy", "perplexity"], "perplexity:min"),
        ("best:acc:max", ["rmse", "acc"], "acc:max"),
        ("best:zeal:min", ["zeal"], "zeal:min"),
        ("best:accuracy:min", ["accuracy"], "accuracy:min"),
    ],
)
def test_what_decides(select, measured, expected):
    assert str(criterion(metric_in(select), measured, "select", "best:")) == expected


@pytest.mark.parametrize(
    ("select", "measured", "message"),
    [
        (
            "best",
            ["acc"],
            "select: it is not known whether more acc is better .*; say it: best:acc:max or best:acc:min",
        ),
        ("best:zeal", ["acc", "zeal"], "more zeal is better or worse"),
        ("best:rmse", ["acc"], "select must be one of acc, got 'rmse'"),
        ("best", [], "select needs a metric, but the model or scoring measures none"),
    ],
)
def test_what_cannot_decide(select, measured, message):
    with pytest.raises(ValueError, match=message):
        criterion(metric_in(select), measured, "select", "best:")


def test_a_criterion_reads_as_a_sentence():
    assert Criterion("ndcg@10", Direction.HIGHER).words == "NDCG@10, higher is better"
