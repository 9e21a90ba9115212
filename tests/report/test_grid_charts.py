from hyperfocal.report.grid_charts import axes_of


def test_caps_and_gammas_are_the_axes_and_what_follows_from_them_is_none():
    settings = {
        f"{cap} {gamma}": {
            "seed": number,
            "loss.cap": cap,
            "loss.weights": None if cap == "off" else "inverse",
            "loss.name": "focal" if gamma else "bce",
            "loss.gamma": gamma,
        }
        for number, (cap, gamma) in enumerate((cap, gamma) for cap in (7.0, "off", 6.5) for gamma in (3.0, None))
    }
    cap, gamma = axes_of(settings)
    assert (cap.title, cap.order) == ("class-weight cap", ["none", "6.5", "7"])
    assert (gamma.title, gamma.order) == ("focal gamma", ["none", "3"])
    assert gamma.labels["off None"] == "none"


def test_the_axis_with_most_values_is_the_first_and_words_keep_their_order():
    settings = {
        f"{model} {width}": {"model.name": model, "w": width} for model in ("gru", "a", "mean") for width in (4, 2)
    }
    model, width = axes_of(settings)
    assert (model.order, width.order) == (["gru", "a", "mean"], ["2", "4"])


def test_settings_that_do_not_vary_are_no_axes():
    assert axes_of({"a": {"x": 1, "seed": 0}, "b": {"x": 1, "seed": 1}}) == []
