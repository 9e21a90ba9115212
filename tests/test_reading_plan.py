"""A run reads other files as it read its training data, and says what differs."""

import json
from shutil import copytree

import httpx
import numpy as np
import pandas as pd
import polars as pl
import pytest

import hyperfocal
from command_cases import done, invoke, refused
from hyperfocal import MultiLabelClassifier, Recommender
from hyperfocal.config.classify import TextDataSettings
from hyperfocal.data import stored_documents
from hyperfocal.data.documents import as_documents
from hyperfocal.data.logs import Log
from hyperfocal.data.reading import ReadingPlan
from hyperfocal.errors import ConfigError, DataError
from serve_cases import service

WORDS = {"wine": "red grape bottle", "beer": "hop malt barrel", "tea": "leaf cup steam"}
MARKOV = ("--model", "markov", "--history", 2, "--next", 1)


def log(names=("user_id", "item_id", "timestamp"), users=30, **more):
    rows = [(f"u{user}", 100 + (user + step) % 12, step) for user in range(users) for step in range(6)]
    return pl.DataFrame(rows, schema=list(names), orient="row").with_columns(**more)


def tickets(number=90):
    names = list(WORDS)
    pairs = [(names[place % 3], names[(place // 3) % 3]) for place in range(number)]
    texts = [f"{WORDS[one]} {WORDS[other]}" for one, other in pairs]
    return pl.DataFrame({"text": texts, "labels": ["|".join(sorted({*pair})) for pair in pairs]})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    log(event_type=pl.lit("view"), price=pl.lit(2.5)).write_csv(folder / "log.csv")
    done("recommend", "fit", folder / "log.csv", "--out", folder / "run", *MARKOV)
    return folder / "run"


@pytest.fixture(scope="module")
def text_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    tickets().with_columns(title=pl.lit("a ticket")).write_csv(folder / "train.csv")
    done("classify", "fit", folder / "train.csv", "--out", folder / "run", "--features", "ngrams")
    return folder / "run"


class TestWhatIsSaidAndKept:
    def test_fit_prints_the_plan_before_training(self, tmp_path):
        log(event_type=pl.lit("view"), price=pl.lit(2.5)).write_csv(tmp_path / "log.csv")
        result = invoke("recommend", "fit", tmp_path / "log.csv", "--out", tmp_path / "run", *MARKOV)
        lines = result.stderr.splitlines()
        assert lines[0] == "Read 180 rows:"
        assert [line.split()[:3] for line in lines[2:5]] == [
            ["user_id", "user", "text"],
            ["item_id", "item", "text,"],
            ["timestamp", "order", "positions"],
        ]
        assert lines[5] == "Ignored: event_type, price."

    def test_the_run_stores_it(self, run, text_run):
        plan = json.loads((run / "data.json").read_text())["reading"]
        assert [(column["name"], column["use"], column["type"]) for column in plan["columns"]] == [
            ("user_id", "user", "text"),
            ("item_id", "item", "whole"),
            ("timestamp", "order", "position"),
        ]
        assert plan["ignored"] == ["event_type", "price"]
        plan = json.loads((text_run / "data.json").read_text())["reading"]
        assert (plan["separator"], plan["ignored"], plan["form"], plan["rows"]) == ("|", ["title"], "documents", 90)

    def test_it_survives_saving_loading_and_an_update(self, run, tmp_path):
        loaded = Recommender.load(run)
        loaded.save(tmp_path / "copy")
        again = Recommender.load(tmp_path / "copy")
        again.update(log(users=40), again=True)
        assert again.ranker_.plan == loaded.ranker_.plan == Recommender.load(run).ranker_.plan
        assert isinstance(loaded.ranker_.plan, ReadingPlan)

    def test_the_report_has_it(self, run, text_run):
        assert "How 180 rows were read" in (run / "report.html").read_text()
        page = (text_run / "report.html").read_text()
        assert "text, split at |" in page
        assert "title may hold text too" in page


class TestAnotherFile:
    def test_a_log_without_a_column_of_the_plan_is_refused(self, run, tmp_path):
        log(("customer", "sku", "timestamp")).write_csv(tmp_path / "other.csv")
        message = refused("recommend", "predict", run, tmp_path / "other.csv", "--out", tmp_path / "p.csv")
        assert "no column 'user_id', from which this run reads the user." in message
        assert "Columns found: customer, sku, timestamp." in message
        assert not (tmp_path / "p.csv").exists()

    @pytest.mark.parametrize("command", ["evaluate", "update"])
    def test_every_command_applies_it(self, run, tmp_path, command):
        log(("user_id", "other", "timestamp")).write_csv(tmp_path / "other.csv")
        assert "no column 'item_id', from which this run reads the item" in refused(
            "recommend", command, run, tmp_path / "other.csv"
        )

    def test_more_columns_and_another_case_do_no_harm(self, run):
        recommender = Recommender.load(run)
        plain = recommender.predict(log()).frame
        other = log(("USER_ID", "Item_Id", "timestamp"), user=pl.lit(1), order=pl.lit("x"))
        assert recommender.predict(other).frame.rows() == plain.rows()

    def test_histories_may_lack_the_order_but_only_as_two_columns(self, run):
        recommender = Recommender.load(run)
        plain = recommender.predict(log()).frame
        assert recommender.predict(log().drop("timestamp")).frame.rows() == plain.rows()
        with pytest.raises(DataError, match="no column 'timestamp', from which this run reads the order"):
            recommender.predict(log(("user_id", "item_id", "day")))

    def test_an_order_that_training_did_not_have_is_refused(self):
        recommender = Recommender(model="markov", history=2, next_items=1).fit(log().drop("timestamp"))
        with pytest.raises(DataError, match="'timestamp', but this run was fitted on rows without an order"):
            recommender.predict(log())

    def test_another_text_column_is_not_classified_instead(self, text_run, tmp_path):
        pl.DataFrame({"title": ["red grape"], "body": ["hop"]}).write_csv(tmp_path / "new.csv")
        message = refused("classify", "predict", text_run, tmp_path / "new.csv", "--out", tmp_path / "p.jsonl")
        assert "no column 'text', from which this run reads the texts." in message
        assert "Columns found: title, body." in message

    def test_both_texts_are_needed(self, tmp_path):
        frame = tickets().select(pl.col("text").alias("title"), pl.col("text").alias("body"), "labels")
        classifier = MultiLabelClassifier(features="ngrams").fit(frame)
        with pytest.raises(DataError, match="no column 'body', from which this run reads the texts"):
            classifier.predict_documents(frame.select("title"))

    def test_labels_are_split_as_in_training(self, tmp_path):
        train = tickets().with_columns(pl.col("labels").str.replace("wine", "Wine, dry"))
        classifier = MultiLabelClassifier(features="ngrams").fit(train)
        assert classifier.classes_.tolist() == ["Wine, dry", "beer", "tea"]
        single = train.filter(~pl.col("labels").str.contains("|", literal=True))
        assert classifier.evaluate(single)["data"]["unseen_labels"] == {}

    def test_a_label_with_a_space_stays_whole_where_training_split_at_a_mark(self):
        train = tickets().with_columns(pl.col("labels").str.replace("tea", "New York"))
        classifier = MultiLabelClassifier(features="ngrams").fit(train)
        one = pl.DataFrame({"text": ["leaf cup"], "labels": ["New York"]})
        assert classifier.evaluate(one)["data"]["unseen_labels"] == {}

    def test_evaluate_needs_neither_group_nor_id(self):
        train = tickets().with_columns(key=pl.int_range(90), source=pl.int_range(90) // 2)
        columns = {"data.id": "key", "data.group": "source"}
        classifier = MultiLabelClassifier(features="ngrams", settings=columns).fit(train)
        assert classifier.evaluate(tickets())["documents"] == 90
        assert classifier.predict_documents(train.drop("source"))["key"].to_list() == list(range(90))

    def test_a_run_without_a_plan_finds_columns_as_before(self, run, text_run, tmp_path):
        run, text_run = (copytree(folder, tmp_path / folder.parent.name) for folder in (run, text_run))
        for folder in (run, text_run):
            facts = json.loads((folder / "data.json").read_text())
            facts.pop("reading")
            (folder / "data.json").write_text(json.dumps(facts))
        assert len(Recommender.load(run).predict(log(("user", "item", "order"))).frame) == 30
        frame = pl.DataFrame({"title": ["red grape"]})
        assert len(MultiLabelClassifier.load(text_run).predict_documents(frame)) == 1


class TestInspect:
    def test_prints_the_plan_in_a_dozen_lines_of_80_columns(self, tmp_path):
        wide = log(**{f"column_{number}": pl.lit(number) for number in range(30)})
        wide.write_csv(tmp_path / "log.csv")
        lines = done("inspect", tmp_path / "log.csv").splitlines()
        assert len(lines) <= 12
        assert max(map(len, lines)) <= 80
        assert lines[-1].endswith("and 20 more.")

    def test_the_columns_decide_the_job(self, tmp_path):
        tickets().write_ndjson(tmp_path / "texts.jsonl")
        log().write_parquet(tmp_path / "log.parquet")
        assert json.loads(done("inspect", tmp_path / "texts.jsonl", "--json"))["form"] == "documents"
        assert json.loads(done("inspect", tmp_path / "log.parquet", "--json"))["form"] == "long"

    def test_a_log_with_words_about_its_items_is_a_log(self):
        words = log().with_columns(title=pl.lit("a"), tags=pl.lit("b"))
        assert hyperfocal.inspect(words).names("item") == ("item_id",)

    def test_named_columns_decide_it(self):
        frame = pd.DataFrame({"a": ["x", "y"], "b": ["p|q", "q"], "c": [1, 2]})
        assert hyperfocal.inspect(frame, text="a", labels="b").separator == "|"
        assert hyperfocal.inspect(frame, user="a", item="b", order="c").kind("item") == "text"
        with pytest.raises(ConfigError, match="a column of the other job is named, but the job is classify"):
            hyperfocal.inspect(frame, "classify", user="a")

    def test_a_file_that_cannot_be_read(self, tmp_path):
        (tmp_path / "a.csv").write_text("a,b,c,d\n1,2,3,4\n")
        assert "cannot tell which column is the user" in refused("inspect", tmp_path / "a.csv")
        assert "no such file" in refused("inspect", tmp_path / "none.csv")


class TestService:
    @pytest.fixture
    def client(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("served") / "run"
        Recommender(model="markov", history=2, next_items=1).fit(log().to_pandas(), out=folder)
        with service(folder) as running, httpx.Client(base_url=running.address, timeout=30) as client:
            yield client

    def test_ids_keep_their_type_over_http(self, client):
        for item in (100, 100.0, "100", "100.0"):
            answer = client.post("/v1/recommend", json={"histories": [[item, 999]], "k": 1}).json()["answers"][0]
            assert answer["items"][0]["item"] == 101
            assert answer["unknown"] == [999]
        excluded = client.post("/v1/recommend", json={"histories": [[100]], "k": 1, "exclude": [101]}).json()
        assert excluded["answers"][0]["items"][0]["item"] != 101

    def test_the_model_card_says_how_the_data_were_read(self, client):
        plan = client.get("/v1/model").json()["reading"]
        assert [column["name"] for column in plan["columns"]] == ["user_id", "item_id", "timestamp"]
        assert {column["example"] for column in plan["columns"]} == {""}  # training data are not shown


def test_what_was_counted_stands_in_one_place(tmp_path):
    rows = "".join(f"u{user},i{(user + step) % 9},{step // 2},x\n" for user in range(30) for step in range(6))
    (tmp_path / "log.csv").write_text("user,item,time,more\n" + rows + "u1,i1,0,y\n")
    options = ("--set", "data.order_kind=time", "--overwrite", "--out", tmp_path / "run")
    said = done("recommend", "fit", tmp_path / "log.csv", *MARKOV, *options)
    counts = json.loads((tmp_path / "run" / "data.json").read_text())["counts"]
    assert counts == json.loads((tmp_path / "run" / "metrics.json").read_text())["data"]
    assert (counts["ties"], counts["repeats"]) == (91, 1)
    line = "Events that repeat the user, time and item of an earlier event (kept): 1."
    assert line in said
    assert line in (tmp_path / "run" / "report.html").read_text()


class TestKindsOfIds:
    """Ids of versions, 1.0 and 1.1, are texts; a part of them alone looks like whole numbers."""

    def versions(self, users=30):
        rows = [(f"u{user}", f"{1 + step % 3}.{(user + step) % 2}") for user in range(users) for step in range(6)]
        return pl.DataFrame(rows, schema=["user", "item"], orient="row")

    @pytest.mark.parametrize("source", ["frame", "lists", "streamed"])
    def test_another_log_is_compared_with_those_of_training(self, source, tmp_path):
        frame = self.versions()
        if source == "lists":
            data = Log.from_lists(frame.group_by("user", maintain_order=True).agg("item")["item"].to_list())
        elif source == "streamed":
            frame.write_csv(tmp_path / "log.csv")
            data = tmp_path / "log.csv"
        else:
            data = frame
        settings = {"data.stream": "on"} if source == "streamed" else {}
        recommender = Recommender(model="markov", history=2, next_items=1, settings=settings).fit(data)
        part = pl.DataFrame({"user": ["a", "a"], "item": ["1.0", "2.0"]})
        assert recommender.predict(part).unknown_events == 0
        recommender.save(tmp_path / "run")
        part.write_csv(tmp_path / "part.csv")
        assert Recommender.load(tmp_path / "run").predict(tmp_path / "part.csv").unknown_events == 0
        done("recommend", "predict", tmp_path / "run", tmp_path / "part.csv", "--out", tmp_path / "p.csv", "--block", 1)
        assert pl.read_csv(tmp_path / "p.csv")["known"].to_list() == [True]

    def test_a_batch_of_ray_data_is_too(self, tmp_path):
        from hyperfocal.export.ray_data import BatchPredictor

        Recommender(model="markov", history=2, next_items=1).fit(self.versions()).save(tmp_path / "run")
        batch = pl.DataFrame({"user": ["a"], "seen": [["1.0", "2.0"]]}).to_arrow()
        assert BatchPredictor(tmp_path / "run", k=1)(batch)["known"].to_pylist() == [True]

    def test_after_an_update_with_texts_integers_are_texts(self, tmp_path):
        recommender = Recommender(model="markov", history=2, next_items=1).fit(log(("user", "item", "order")))
        assert recommender.recommend([[100.0]], k=1) == [[101]]
        more = pl.DataFrame({"user": [f"n{u}" for u in range(9) for _ in range(3)], "item": ["100", "101", "x"] * 9})
        recommender.update(more.with_columns(order=pl.int_range(27)))
        assert recommender.ranker_.plan.kind("item") == recommender.vocabulary_.kind == "text"
        assert recommender.recommend([[100]], k=1) == recommender.recommend([["100"]], k=1) == [["101"]]


def test_streamed_documents_have_the_plan_of_documents_in_memory(tmp_path, monkeypatch):
    ids = [*(f"{place}.0" for place in range(89)), "last"]
    tickets().with_columns(id=pl.Series(ids), more=pl.lit(1)).write_csv(tmp_path / "docs.csv")
    monkeypatch.setattr(stored_documents, "BLOCK_ROWS", 20)
    (tmp_path / "work").mkdir()
    arrays = stored_documents.stream_documents(tmp_path / "docs.csv", TextDataSettings(), tmp_path / "work")
    streamed, whole = stored_documents.stored_documents(arrays), as_documents(tmp_path / "docs.csv")
    assert streamed.plan == whole.plan
    assert streamed.ids.to_list() == whole.ids.to_list() == ids


def test_texts_are_not_split_by_a_guess_if_training_had_lists():
    train = tickets().with_columns(pl.col("labels").str.replace("tea", "New York").str.split("|"))
    one = pl.DataFrame({"text": ["leaf cup"], "labels": ["New York"]})
    classifier = MultiLabelClassifier(features="ngrams").fit(train)
    with pytest.raises(DataError, match="holds texts such as 'New York', but this run was fitted on lists of labels"):
        classifier.evaluate(one)
    assert classifier.evaluate(one.with_columns(labels=pl.lit('["New York"]')))["data"]["unseen_labels"] == {}
    named = MultiLabelClassifier(features="ngrams", separator="|").fit(train)
    assert named.evaluate(one)["data"]["unseen_labels"] == {}


@pytest.mark.parametrize("wrong", [None, 101, np.array(101), log()], ids=["none", "number", "array", "frame"])
def test_what_is_no_list_of_histories_or_texts(wrong):
    recommender = Recommender(model="markov", history=2, next_items=1).fit(log())
    classifier = MultiLabelClassifier(features="ngrams").fit(tickets())
    with pytest.raises(DataError, match="Give one list of item ids per user"):
        recommender.recommend(wrong)
    with pytest.raises(DataError, match="Expected a list of texts"):
        classifier.predict(wrong)
    with pytest.raises(DataError, match=r"Give one list per user, as \[\[100\]\]"):
        recommender.recommend([100])
    for item in (b"100", [100], {"a": 1}):
        with pytest.raises(DataError, match=r"is not an item id\. Give one text or number per item"):
            recommender.recommend([[item]])
