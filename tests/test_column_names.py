"""Names of columns as parameters of the estimators, on real pandas frames."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

import hyperfocal
from hyperfocal import MultiLabelClassifier, Recommender
from hyperfocal.errors import ConfigError, DataError

SHOP = pd.DataFrame(
    [(f"u{user}", 100 + (user + step) % 12, 5 - step, 9.9) for user in range(60) for step in range(6)],
    columns=["customer", "sku", "ts", "price"],
)  # each next sku is one higher in time, and one lower in the order of the rows
LOG = {"user": "customer", "item": "sku", "order": "ts"}
TWO = {"model": "markov", "history": 2, "next_items": 1}
WORDS = {"wine": "red grape", "beer": "hop malt", "tea": "leaf cup"}
PAIRS = [(first, second) for first in WORDS for second in WORDS] * 10
POSTS = pd.DataFrame(
    {
        "title": [WORDS[first] for first, _ in PAIRS],
        "body": [WORDS[second] for _, second in PAIRS],
        "tags": ["/".join(sorted({first, second})) for first, second in PAIRS],
        "thread": [f"t{row}" for row in range(len(PAIRS))],
        "post": [f"p{row}" for row in range(len(PAIRS))],
    }
)
TEXTS = {"text": ["title", "body"], "labels": "tags", "separator": "/", "group": "thread", "id": "post"}
FAST = {"features": "ngrams", "settings": {"train.epochs": 4, "train.threads": 1, "head.name": "linear"}}


def columns(settings):
    return settings.text, settings.labels, settings.separator, settings.group, settings.id


@pytest.mark.parametrize(
    "text", [["title", "body"], np.array(["title", "body"]), pd.Index(["title", "body"])], ids=repr
)
def test_inspect_takes_the_same_names(text):
    names = TEXTS | {"text": text}
    plan = hyperfocal.inspect(POSTS, **names)
    assert plan.names("text") == ("title", "body")
    assert hyperfocal.inspect(SHOP, **LOG).name("order") == "ts"


class TestRecommender:
    def test_columns_of_any_name(self, tmp_path):
        recommender = Recommender(**LOG, **TWO).fit(SHOP, out=tmp_path / "run")
        assert [list(map(str, row)) for row in recommender.recommend([[105], [103]], k=1)] == [["104"], ["102"]]
        assert Recommender.load(tmp_path / "run").settings_.data == recommender.settings_.data
        assert len(recommender.predict(SHOP[["customer", "sku", "ts"]]).frame) == 60

    def test_they_equal_the_same_settings(self):
        settings = {f"data.{name}": column for name, column in LOG.items()}
        assert Recommender(**LOG).resolve() == Recommender(settings=settings).resolve()

    def test_settings_win_over_a_parameter_and_that_over_the_recipe(self, tmp_path):
        (tmp_path / "recipe.toml").write_text('[data]\nuser = "a"\nitem = "b"\norder = "c"\n')
        chosen = Recommender(tmp_path / "recipe.toml", user="u", item="i", settings={"data.item": "x"}).resolve().data
        assert (chosen.user, chosen.item, chosen.order) == ("u", "x", "c")

    def test_a_missing_name_is_asked_for_as_a_parameter(self):
        with pytest.raises(DataError, match=r"cannot tell which column is the user\. Name it with `user=`\."):
            Recommender(**TWO).fit(SHOP.rename(columns={"customer": "who"}))
        with pytest.raises(DataError, match=r"no column 'costumer' \(`user=`\)\. Did you mean 'customer'"):
            Recommender(user="costumer", **TWO).fit(SHOP)
        for name in LOG:
            with pytest.raises(DataError, match=rf"no column 'absent' \(`{name}=`\)"):
                Recommender(**LOG | {name: "absent"}, **TWO).fit(SHOP)

    def test_numbers_of_numpy_are_arguments_too(self):
        recommender = Recommender(**LOG, model="markov", history=np.int64(2), next_items=np.int8(1)).fit(SHOP)
        metrics = recommender.evaluate(SHOP, k=np.int64(2))
        assert json.loads(json.dumps(metrics["scores"]["markov"]["map@2"])).keys() >= {"mean"}
        assert [len(row) for row in recommender.recommend([[105]], k=np.int64(4))] == [4]
        with pytest.raises(ConfigError, match=r"k = True is not allowed\. Expected 1 to 12"):
            recommender.recommend([[105]], k=True)

    def test_clone_and_parameters(self):
        copy = clone(Recommender(**LOG))
        assert copy.get_params().items() >= LOG.items()
        assert copy.set_params(user="who").resolve().data.user == "who"

    @pytest.mark.parametrize("name", [0, ["customer"], True])
    def test_a_name_that_is_no_text(self, name):
        with pytest.raises(ConfigError, match=r"data\.user = .* is not allowed\. Expected str"):
            Recommender(user=name).resolve()


class TestMultiLabelClassifier:
    def test_columns_of_any_name(self, tmp_path):
        classifier = MultiLabelClassifier(**TEXTS, **FAST).fit(POSTS, out=tmp_path / "run")
        assert classifier.classes_.tolist() == ["beer", "tea", "wine"]
        assert columns(classifier.settings_.data) == (("title", "body"), "tags", "/", "thread", "post")
        predicted = MultiLabelClassifier.load(tmp_path / "run").predict_documents(POSTS[["post", "title", "body"]])
        assert predicted["post"].to_list() == POSTS["post"].to_list()

    def test_the_second_column_is_read(self):
        texts = POSTS.assign(title="the")
        both = MultiLabelClassifier(**TEXTS, **FAST).fit(texts)
        first = MultiLabelClassifier(**TEXTS | {"text": "title"}, **FAST).fit(texts)
        assert both.metrics_["values"]["macro_ap"] > first.metrics_["values"]["macro_ap"] + 0.1

    def test_groups_are_not_split(self):
        whole = POSTS.assign(thread="all")
        with pytest.raises(DataError, match=r"in 1 groups cannot be split: .* held-out ones with `valid=`"):
            MultiLabelClassifier(**TEXTS, **FAST).fit(whole)

    @pytest.mark.parametrize(
        "text",
        [["title", "body"], ("title", "body"), np.array(["title", "body"]), pd.Index(["title", "body"])],
        ids=lambda text: type(text).__name__,
    )
    def test_several_text_columns(self, text):
        assert MultiLabelClassifier(text=text).resolve().data.text == ("title", "body")

    def test_one_text_column(self):
        assert MultiLabelClassifier(text="body").resolve().data.text == ("body",)
        assert MultiLabelClassifier(text=np.str_("body")).resolve().data.text == ("body",)
        assert MultiLabelClassifier().resolve().data.text == ()

    def test_settings_win_over_a_parameter_and_that_over_the_recipe(self, tmp_path):
        (tmp_path / "recipe.toml").write_text('[data]\ntext = ["a"]\nlabels = "b"\nid = "c"\n')
        settings = {"data.labels": "x"}
        given = MultiLabelClassifier(tmp_path / "recipe.toml", text="t", labels="l", settings=settings).resolve().data
        assert columns(given) == (("t",), "x", "", "", "c")

    def test_a_missing_name_is_asked_for_as_a_parameter(self):
        frame = POSTS.rename(columns={"title": "one", "body": "two"})
        with pytest.raises(DataError, match=r"cannot tell which column is the text; .* Name it with `text=`\."):
            MultiLabelClassifier(labels="tags").fit(frame)
        for name in ("text", "labels", "group", "id"):
            with pytest.raises(DataError, match=rf"no column 'absent' \(`{name}=`\)"):
                MultiLabelClassifier(**TEXTS | {name: "absent"}).fit(POSTS)

    def test_clone_and_parameters(self):
        classifier = MultiLabelClassifier(**TEXTS)
        copy = clone(classifier)
        assert copy.get_params() == classifier.get_params()
        assert copy.get_params().items() >= TEXTS.items()
        assert copy.text is not classifier.text
        assert copy.set_params(text="body", id=None).resolve().data.text == ("body",)

    def test_a_search_over_texts_ignores_them(self):
        """The names are of frames and files; lists of texts have no columns."""
        texts, labels = POSTS["title"] + " " + POSTS["body"], POSTS["tags"].str.get_dummies("/").to_numpy()
        search = GridSearchCV(MultiLabelClassifier(**TEXTS, **FAST), {"gamma": [1.0]}, cv=2).fit(texts, labels)
        assert search.best_score_ > 0.9
