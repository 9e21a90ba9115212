from hyperfocal.recommend.grid_layout import ranking_layout, scores_on_test


def test_scores_are_the_means_of_the_model_and_its_buckets():
    means = {name: {"mean": mean} for name, mean in (("map@3", 0.3), ("recall@10", 0.5))}
    buckets = {bucket: {"map@3": {"mean": 0.1}, "users": 4} for bucket in ("head", "medium", "tail")}
    scores = {"gru": means | buckets | {"coverage": 0.9}, "popularity": {}}
    assert scores_on_test({"model": "gru", "metric": "map@3", "scores": scores}) == means | {
        f"map@3, {bucket}": {"mean": 0.1} for bucket in ("head", "medium", "tail")
    }


def test_columns_and_buckets_are_of_the_metric_of_k_items():
    layout = ranking_layout(3)
    assert (layout.changed, layout.digits) == ("map@3", 4)
    assert [*layout.columns][2:] == [layout.buckets["map@3"].format(bucket) for bucket in ("head", "medium", "tail")]
