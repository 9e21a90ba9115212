"""The answers of a fitted recommender: the same rules give the same lists in Python, as commands and over HTTP."""

import json
from datetime import datetime, timedelta

import httpx
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from command_cases import done, refused
from hyperfocal import Recommender, Rules
from hyperfocal.errors import ConfigError, DataError
from hyperfocal.rules import Rules as TheSameRules
from serve_cases import service

ITEMS = [f"i{number}" for number in range(20)]
START = datetime(2024, 1, 1)
LOG = pl.DataFrame(
    [
        (user, ITEMS[(3 * user + place) % 20], START + timedelta(days=10 * place))
        for user in range(40)
        for place in range(6)
    ],
    schema=["user", "item", "time"],
    orient="row",
)
TABLE = pl.DataFrame(
    {
        "item": ITEMS,
        "title": [f"Item {number}" for number in range(20)],
        "brand": [f"b{number % 4}" for number in range(20)],
        "price": [float(number) for number in range(20)],
    }
)
SETTINGS = {"train.epochs": 3, "train.threads": 1, "model.embedding_width": 8, "items.features": ["brand"]}
HISTORIES = [["i3", "i4"], ["i19"], ["i0", "i1", "i2"]]
RULES = Rules(filters=["price < 15"], max_per={"brand": 2}, exclude=["i5"], diversity=0.2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs on one log with one table, and the files of them."""
    folder = tmp_path_factory.mktemp("answers")
    LOG.write_csv(folder / "log.csv")
    TABLE.write_csv(folder / "items.csv")
    for model in ("markov", "mean"):
        settings = SETTINGS if model == "mean" else {}
        recommender = Recommender(model=model, history=4, next_items=1, settings=settings)
        recommender.fit(folder / "log.csv", items=folder / "items.csv", out=folder / model)
    return folder


@pytest.fixture(scope="module", params=["markov", "mean"])
def run(folder, request):
    return folder / request.param


@pytest.fixture(scope="module")
def recommender(run):
    return Recommender.load(run)


@pytest.fixture(scope="module")
def client(run):
    with service(run) as running, httpx.Client(base_url=running.address, timeout=60) as client:
        yield client


def test_the_rules_of_the_package_are_those_of_every_surface():
    assert Rules is TheSameRules


class TestPython:
    def test_rules(self, recommender):
        for ids in recommender.recommend(HISTORIES, 5, rules=RULES):
            brands = [int(item[1:]) % 4 for item in ids]
            assert "i5" not in ids
            assert all(int(item[1:]) < 15 for item in ids)
            assert max(map(brands.count, brands)) <= 2
            assert len(ids) == 5

    def test_known_users_are_their_histories(self, recommender):
        users = recommender.users_.to_list()[:3]
        events = [LOG.filter(pl.col("user") == int(user))["item"].to_list() for user in users]
        assert recommender.recommend(users=users, k=4) == recommender.recommend(events, 4)
        assert recommender.recommend(users=[int(user) for user in users], k=4) == recommender.recommend(events, 4)

    def test_an_unknown_user_gets_what_an_empty_history_gets(self, recommender, caplog):
        assert recommender.recommend(users=["nobody"], k=4) == recommender.recommend([[]], 4)
        assert "1 of 1 users are not in the run, and get the items for an empty history" in caplog.text

    def test_candidates(self, recommender, caplog):
        lists = recommender.recommend(HISTORIES, 3, candidates=[["i9", "i3"], ["i1", "i2", "x"], []])
        assert [sorted(ids) for ids in lists] == [["i9"], ["i1", "i2"], []]
        assert "3 of 3 lists are shorter than k" in caplog.text

    def test_a_list_that_is_short_by_itself_is_no_warning(self, recommender, caplog):
        assert len(recommender.recommend([ITEMS[:18]], 5)[0]) == 2
        assert "shorter" not in caplog.text

    def test_a_frame(self, recommender):
        frame = recommender.recommend_frame(HISTORIES, 2, rules=RULES, explain=True)
        assert frame.columns == ["user", "item", "rank", "score", "because"]
        assert frame["user"].to_list() == [0, 0, 1, 1, 2, 2]
        assert frame["rank"].to_list() == [1, 2] * 3
        grouped = frame.group_by("user", maintain_order=True).agg("item")["item"].to_list()
        assert grouped == recommender.recommend(HISTORIES, 2, rules=RULES)
        for user, because in frame.select("user", "because").iter_rows():
            assert set(because) <= set(HISTORIES[user])

    def test_a_frame_of_the_library_of_the_users(self, recommender):
        users = pd.Series(recommender.users_.to_list()[:2])
        frame = recommender.recommend_frame(users=users, k=2)
        assert isinstance(frame, pd.DataFrame)
        assert frame["user"].to_list() == [users[0]] * 2 + [users[1]] * 2

    def test_another_item_table(self, recommender):
        today = recommender.with_item_table(TABLE.with_columns(in_stock=pl.col("price") > 16))
        assert set(today.recommend([["i3"]], 10, rules=Rules(filters=["in_stock = true"]))[0]) == {"i17", "i18", "i19"}
        with pytest.raises(ConfigError, match="no column 'in_stock'"):
            recommender.recommend([["i3"]], 3, rules=Rules(filters=["in_stock = true"]))

    def test_repeats_after_some_days(self, recommender):
        """The newest event of a user is 50 days after the first one, and the others 10 days apart."""
        log = LOG.filter(pl.col("user") == 0)
        for rules, again in ((Rules(repeat_after=30), 3), (Rules(repeat_after=50.5), 0), (Rules(repeats=True), 6)):
            items = recommender.predict(log, 20, rules=rules).frame["item"].to_list()
            assert len(items) == 14 + again
            assert set(log["item"][:again]) <= set(items)

    def test_seconds_are_days_too(self, recommender):
        log = LOG.filter(pl.col("user") == 0).with_columns(pl.col("time").dt.epoch("s"))
        settings = recommender.settings_
        assert settings.data.next == 1
        fitted = Recommender(model="markov", history=4, next_items=1).fit(
            LOG.with_columns(pl.col("time").dt.epoch("s"))
        )
        assert len(fitted.predict(log, 20, rules=Rules(repeat_after=30)).frame) == 17

    @pytest.mark.parametrize(
        ("asked", "error", "message"),
        [
            ({}, DataError, "Give one list of item ids per user"),
            ({"histories": [[]], "users": ["1"]}, ConfigError, "Leave one out"),
            ({"users": "1"}, DataError, r"'1' is not a list of user ids\. Write \['1'\]"),
            ({"histories": [[]], "candidates": [["i1"], ["i2"]]}, DataError, "2 lists for 1 users"),
            ({"histories": [[]], "candidates": [["x"]]}, DataError, "none of the candidates"),
            ({"histories": [[]], "rules": Rules(repeat_after=2)}, ConfigError, "needs the time of each event"),
        ],
    )
    def test_what_is_refused(self, recommender, asked, error, message):
        with pytest.raises(error, match=message):
            recommender.recommend(**asked)


class TestReasons:
    def test_a_chain_has_one_reason(self, folder):
        """Markov scores by the newest item alone: without it, the item before it counts."""
        recommender = Recommender.load(folder / "markov")
        frame = recommender.recommend_frame([["i7", "i3", "i4"]], 1, explain=True)
        assert frame["item"].to_list() == ["i5"]
        assert frame["because"].to_list() == [["i4"]]

    @torch.inference_mode()
    def test_the_effect_is_the_fall_of_the_score(self, folder):
        from hyperfocal.recommend.reasons import reasons

        ranker = Recommender.load(folder / "mean").ranker_
        history = ranker.vocabulary.encode_lists([["i7", "i3", "i4", "i3"]])
        items = ranker.rank(history, 4).items
        (lists,) = reasons(ranker.scorer(), history, items)
        rests = {"i7": ["i3", "i4", "i3"], "i3": ["i7", "i4"], "i4": ["i7", "i3", "i3"]}
        whole = ranker.scorer()(history)[0]
        for item, why in zip(items[0].tolist(), lists, strict=True):
            falls = {
                name: float(whole[item] - ranker.scorer()(ranker.vocabulary.encode_lists([rest]))[0, item])
                for name, rest in rests.items()
            }
            positive = sorted((name for name in falls if falls[name] > 0), key=lambda name: -falls[name])
            assert [ranker.vocabulary.names[reason.item] for reason in why] == positive
            assert [reason.effect for reason in why] == pytest.approx([falls[name] for name in positive], abs=1e-5)


class TestVectors:
    def test_the_inner_product_is_the_score_of_the_network(self, folder):
        recommender = Recommender.load(folder / "mean")
        frame = recommender.item_vectors()
        assert frame["item"].to_list() == recommender.vocabulary_.values
        products = recommender.user_vectors(HISTORIES) @ frame["vector"].to_numpy().T
        ranker = recommender.ranker_
        with torch.inference_mode():
            scores = ranker.scorer_alone()(ranker.vocabulary.encode_lists(HISTORIES))
        np.testing.assert_allclose(products, scores.numpy(), atol=1e-5)

    def test_similar_items_have_the_largest_cosine(self, folder):
        recommender = Recommender.load(folder / "mean")
        vectors = recommender.item_vectors()["vector"].to_numpy()[:, :-1]
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        ids = recommender.vocabulary_.values
        place = ids.index("i4")
        cosines = vectors @ vectors[place]
        best = [ids[other] for other in np.argsort(-cosines) if other != place][:3]
        (row,) = recommender.similar(["i4"], 3)
        assert [item for item, _ in row] == best
        assert [score for _, score in row] == pytest.approx([cosines[ids.index(item)] for item in best], abs=1e-5)

    def test_a_baseline_has_the_cosine_of_users(self, folder):
        recommender = Recommender.load(folder / "markov")
        (row,) = recommender.similar(["i4"], 19)
        train = LOG.filter(pl.col("user").cast(pl.String).is_in(recommender.users_.to_list()))
        users = {item: set(train.filter(pl.col("item") == item)["user"]) for item in ITEMS}
        for item, score in row:
            both = len(users["i4"] & users[item])
            assert score == pytest.approx(both / ((len(users["i4"]) * len(users[item])) ** 0.5 + 50), abs=1e-5)

    def test_what_is_refused(self, recommender, folder):
        with pytest.raises(DataError, match="'x' is not an item of the run"):
            recommender.similar(["x"])
        with pytest.raises(ConfigError, match=r"k = 20 is not allowed\. Expected 1 to 19"):
            recommender.similar(["i1"], 20)
        with pytest.raises(ConfigError, match="markov has no vectors"):
            Recommender.load(folder / "markov").item_vectors()


class TestCommands:
    OPTIONS = ("--filter", "price < 15", "--max-per", "brand=2", "--diversity", 0.2, "--k", 5)

    def rows(self, out):
        return pl.read_csv(out).group_by("user", maintain_order=True).agg("item")["item"].to_list()

    def test_rules(self, run, recommender, tmp_path):
        (tmp_path / "never.txt").write_text("i5\nunknown\n")
        out = tmp_path / "out.csv"
        options = (*self.OPTIONS, "--exclude", tmp_path / "never.txt")
        done("recommend", "predict", run, run.parent / "log.csv", *options, "--out", out)
        histories = LOG.group_by("user", maintain_order=True).agg("item")["item"].to_list()
        assert self.rows(out) == recommender.recommend(histories, 5, rules=RULES)

    def test_blocks_and_candidates_give_the_same(self, run, tmp_path):
        candidates = LOG.select("user", item=pl.col("item").shift(-7)).drop_nulls()
        candidates.write_csv(tmp_path / "candidates.csv")
        asked = ("recommend", "predict", run, run.parent / "log.csv", "--candidates", tmp_path / "candidates.csv")
        said = done(*asked, "--out", tmp_path / "one.csv", "--k", 2)
        assert "with fewer than k items: no more items may be recommended." in said
        done(*asked, "--out", tmp_path / "two.csv", "--k", 2, "--block", 7)
        assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
        for user, items in zip(range(40), self.rows(tmp_path / "one.csv"), strict=False):
            assert set(items) <= set(candidates.filter(pl.col("user") == user)["item"])

    def test_known_users(self, run, recommender, tmp_path):
        users = recommender.users_.to_list()[:2]
        (tmp_path / "ids.txt").write_text("".join(f"{user}\n" for user in users))
        said = done(
            "recommend", "predict", run, "--users", tmp_path / "ids.txt", "--k", 3, "--out", tmp_path / "out.csv"
        )
        assert said.startswith("6 rows for 2 users written")
        assert self.rows(tmp_path / "out.csv") == recommender.recommend(users=users, k=3)

    def test_another_item_table(self, run, tmp_path):
        TABLE.with_columns(in_stock=pl.col("price") > 16).write_csv(tmp_path / "today.csv")
        options = ("--items", tmp_path / "today.csv", "--filter", "in_stock = true", "--k", 3)
        done("recommend", "predict", run, run.parent / "log.csv", *options, "--out", tmp_path / "out.csv")
        assert set(pl.read_csv(tmp_path / "out.csv")["item"]) == {"i17", "i18", "i19"}

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--filter", "prize < 1"), "--filter: 'prize < 1': the item table has no column 'prize'"),
            (("--max-per", "brand"), "--max-per brand: expected a column and a number, such as brand=2"),
            (("--max-per", "brand=0"), "--max-per brand=0: expected a column and a number"),
            (("--diversity", 2), "--diversity: 2.0 is not allowed. Expected 0 to 1"),
            (("--only", "LOG"), "--only: none of 40 allowed items is known"),
            (("--users", "LOG"), "predict needs HISTORY, or --users with a file of user ids"),
        ],
    )
    def test_what_is_refused(self, run, options, message, tmp_path):
        log = run.parent / "users.csv"
        LOG.select("user").write_csv(log)
        options = [log if option == "LOG" else option for option in options]
        said = refused("recommend", "predict", run, run.parent / "log.csv", *options, "--out", tmp_path / "out.csv")
        assert f"error: {message}" in said
        assert not (tmp_path / "out.csv").exists()

    def test_a_file_that_is_read_is_not_overwritten(self, run, tmp_path):
        (tmp_path / "only.csv").write_text("item\ni1\n")
        asked = ("recommend", "predict", run, run.parent / "log.csv", "--only", tmp_path / "only.csv")
        assert "is --only itself" in refused(*asked, "--out", tmp_path / "only.csv")

    def test_similar_items(self, run, recommender, tmp_path):
        done("recommend", "similar", run, "--k", 2, "--out", tmp_path / "similar.parquet")
        rows = pl.read_parquet(tmp_path / "similar.parquet").filter(pl.col("item") == "i4")
        (row,) = recommender.similar(["i4"], 2)
        assert list(zip(rows["similar"], rows["similarity"], strict=True)) == row
        said = done("recommend", "similar", run, "--item", "i4", "--k", 2)
        assert [line.split()[-2] for line in said.splitlines()[1:]] == [item for item, _ in row]
        assert "--out is needed for all items" in refused("recommend", "similar", run)

    def test_vectors(self, folder, tmp_path):
        recommender = Recommender.load(folder / "mean")
        done("recommend", "vectors", folder / "mean", "--out", tmp_path / "items.npy")
        vectors = np.load(tmp_path / "items.npy")
        assert json.loads((tmp_path / "items.ids.json").read_text()) == recommender.vocabulary_.values
        np.testing.assert_array_equal(vectors, recommender.item_vectors()["vector"].to_numpy())
        (tmp_path / "ids.txt").write_text("1\n2\n")
        done("recommend", "vectors", folder / "mean", "--users", tmp_path / "ids.txt", "--out", tmp_path / "u.parquet")
        frame = pl.read_parquet(tmp_path / "u.parquet")
        assert frame["user"].to_list() == ["1", "2"]
        np.testing.assert_array_equal(frame["vector"].to_numpy(), recommender.user_vectors(users=["1", "2"]))
        assert "Choose such a name" in refused("recommend", "vectors", folder / "mean", "--out", tmp_path / "x.csv")
        assert "markov has no vectors" in refused(
            "recommend", "vectors", folder / "markov", "--out", tmp_path / "x.npy"
        )


class TestService:
    def asked(self, client, **request):
        response = client.post("/v1/recommend", json=request)
        assert response.status_code == 200, response.text
        return response.json()["answers"]

    def refusal(self, client, **request):
        response = client.post("/v1/recommend", json=request)
        assert response.status_code == 422
        error = response.json()["error"]
        return error["reason"], error["where"], error["message"]

    def ids(self, answers):
        return [[one["item"] for one in answer["items"]] for answer in answers]

    def test_rules(self, client, recommender):
        request = {"filters": RULES.filters, "max_per": RULES.max_per, "exclude": RULES.exclude, "diversity": 0.2}
        answers = self.asked(client, histories=HISTORIES, k=5, **request)
        assert self.ids(answers) == recommender.recommend(HISTORIES, 5, rules=RULES)
        assert answers[0]["items"][0]["title"] == f"Item {answers[0]['items'][0]['item'][1:]}"

    def test_users_candidates_and_reasons(self, client, recommender):
        users = recommender.users_.to_list()[:2]
        assert self.ids(self.asked(client, users=users, k=4)) == recommender.recommend(users=users, k=4)
        (answer,) = self.asked(client, users=["nobody"], k=2)
        assert answer["note"] == "the run does not have this user: these are the items for an empty history"
        (answer,) = self.asked(client, histories=[["i3"]], candidates=[["i9", "i3"]], k=3)
        assert self.ids([answer]) == [["i9"]]
        assert answer["note"] == "no more items may be recommended"
        (answer,) = self.asked(client, histories=[["i3", "i4"]], k=2, explain=True)
        frame = recommender.recommend_frame([["i3", "i4"]], 2, explain=True)
        assert [one["because"] for one in answer["items"]] == frame["because"].to_list()
        (answer,) = self.asked(client, histories=[["i3", "i4"]], k=20, repeats=True)
        assert len(answer["items"]) == 20

    def test_each_request_has_its_own_exclusions(self, client, recommender):
        for exclude in (["i5"], ["i6", "i7"], []):
            answers = self.asked(client, histories=HISTORIES, k=4, exclude=exclude)
            assert self.ids(answers) == recommender.recommend(HISTORIES, 4, rules=Rules(exclude=exclude))

    def test_similar_items(self, client, recommender):
        response = client.post("/v1/similar", json={"items": ["i4", "i9"], "k": 3})
        rows = [[(one["item"], one["score"]) for one in row] for row in response.json()["answers"]]
        assert rows == recommender.similar(["i4", "i9"], 3)
        for body, place in (
            ({"items": ["x"]}, "$.items"),
            ({"items": ["i4"], "k": 20}, "$.k"),
            ({"items": []}, "$.items"),
        ):
            response = client.post("/v1/similar", json=body)
            assert (response.status_code, response.json()["error"]["where"]) == (422, place)

    def test_the_card_names_the_columns_of_rules(self, client):
        assert client.get("/v1/model").json()["item_columns"] == ["title", "brand", "price"]

    @pytest.mark.parametrize(
        ("request_", "reason", "place", "message"),
        [
            ({}, "invalid", "$", "histories or users are needed"),
            ({"histories": [[]], "users": ["1"]}, "invalid", "$", "and not both"),
            ({"histories": [[]], "candidates": []}, "invalid", "$.candidates", "0 lists for 1 histories or users"),
            ({"histories": [[]], "filters": ["x = 1"]}, "rules", "$", "filters: 'x = 1': the item table has no column"),
            ({"histories": [[]], "only": ["x"]}, "rules", "$", "only: none of 1 allowed items is known"),
            ({"histories": [[]], "repeat_after": 3}, "not_possible", "$.repeat_after", "needs the time of each event"),
            ({"histories": [[]], "diversity": 3}, "invalid", "$.diversity", "<= 1"),
            ({"histories": [[]], "max_per": {"brand": 0}}, "invalid", "$.max_per[...]", ">= 1"),
            ({"histories": [[]] * 9, "explain": True}, "too_many", "$.histories", "explain allows 8 histories"),
            ({"histories": [[]] * 600, "k": 20, "diversity": 0.1}, "too_many", "$.histories", "10,000 are allowed"),
            ({"histories": [[]] * 900, "exclude": ["x"] * 2_000}, "too_many", "$.exclude", "Send fewer histories"),
            ({"histories": [[]], "only": [1e300]}, "invalid", "$.only", "too large to be exact"),
        ],
    )
    def test_what_is_refused(self, client, request_, reason, place, message):
        got = self.refusal(client, **request_)
        assert got[:2] == (reason, place)
        assert message in got[2]


def test_what_lists_are_like_is_in_every_row(folder):
    """Of popularity all users get nearly one list: its exposure is the least equal, and its novelty the least."""
    recommender = Recommender.load(folder / "mean")
    rows = {name: row["beyond"] for name, row in recommender.metrics_["scores"].items()}
    assert all(set(row) == {"novelty", "serendipity", "gini", "diversity"} for row in rows.values())
    assert rows["popularity"]["novelty"] <= min(row["novelty"] for row in rows.values())
    assert rows["popularity"]["gini"] >= max(row["gini"] for row in rows.values())
    said = done("recommend", "evaluate", folder / "mean", folder / "log.csv")
    assert "Beside accuracy, of the first 1 items" in said
    done("report", folder / "mean")
    assert "Beside accuracy" in (folder / "mean" / "report.html").read_text()
