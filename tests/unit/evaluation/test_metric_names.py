import pytest

from fedrecon.evaluation._metric_names import higher_is_better, shown_first, worst_decile, written


@pytest.mark.parametrize(
    ("metric", "higher"),
    [
        ("rmse", False),
        ("val_loss", False),
        ("cross_entropy", False),
        ("perplexity", False),
        ("cross_entropy_restricted_after_oov", False),
        ("perplexity_restricted", False),
        ("accuracy", True),
        ("accuracy_restricted_no_end", True),
        ("top_3_accuracy", True),
        ("top_accuracy", True),
        ("ndcg@10", True),
        ("recall@50", True),
        ("zeal", None),
    ],
)
def test_which_way_is_better(metric, higher):
    assert higher_is_better(metric) is higher
    assert worst_decile(metric) == {False: "p90", True: "p10", None: None}[higher]


def test_metrics_that_others_say_better_are_left_out():
    assert shown_first(["accuracy", "mse", "rmse"]) == ["rmse", "accuracy"]
    assert shown_first(["loss", "mse"]) == ["mse"]
    assert shown_first(["loss"]) == ["loss"]
    assert shown_first(["ndcg@10", "hr@10", "loss"]) == ["ndcg@10", "hr@10"]


def test_names_for_readers():
    assert [written(m) for m in ("rmse", "hr@10", "sampled_hr@10", "ndcg@100", "accuracy")] == [
        "RMSE",
        "HR@10",
        "sampled HR@10",
        "NDCG@100",
        "accuracy",
    ]
