"""`classify fit`, `predict` and `evaluate` on real files: what they write and say, and what they refuse."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from command_cases import NAMES, TINY, done, names_below, process, refused, rows, write

ROOT = Path(__file__).parents[2]
SCORER = ROOT.parent / "shared" / "protocols" / "score_labels.py"
NGRAMS = ("--features", "ngrams", *TINY)
TEXTS = ("--text", "title", "--text", "body")


def strictly(text):
    """Return the value of a JSON text, which may not hold NaN or Infinity."""

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def in_a_row(documents):
    """Return documents as a flat file holds them: one text, labels parted by |."""
    return [
        {"id": row["id"], "text": f"{row['title']} {row['body']}", "labels": "|".join(row["labels"])}
        for row in documents
    ]


class TestProcesses:
    """As a user works: what one process writes another reads."""

    def test_fit_and_predict_as_the_scorer_reads_them(self, folder, tmp_path):
        train, test, run, out = folder / "train.jsonl", folder / "test.jsonl", tmp_path / "run", tmp_path / "p.jsonl"
        fitted = process("classify", "fit", train, "--out", run, *TEXTS, *NGRAMS)
        assert "102 training documents, 6 labels" in fitted.stdout
        assert f"hyperfocal classify predict {run} DOCS --out PRED.jsonl" in " ".join(fitted.stdout.split())
        assert max(map(len, fitted.stdout.split("Run folder")[0].splitlines())) <= 80
        assert (tmp_path / "cache").is_dir()

        said = done("classify", "predict", run, test, "--out", out)
        assert "40 documents, " in said
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        assert [line["id"] for line in lines] == [row["id"] for row in rows(40, seed=1)]
        for line in lines:
            assert list(line) == ["id", "labels", "scores", "known"]
            assert set(line["labels"]) <= set(NAMES)
            assert list(line["scores"].values()) == sorted(line["scores"].values(), reverse=True)
            assert 0 < len(line["scores"]) <= 10

        metrics = strictly(done("classify", "evaluate", run, test, "--json"))
        if not SCORER.exists():
            pytest.skip(f"{SCORER} is not here: the predictions were not scored by it")
        scorer = [sys.executable, SCORER, train, test, out]
        scores = json.loads(subprocess.run(scorer, capture_output=True, text=True, check=True).stdout)
        assert (scores["predicted"], scores["unseen"]) == (40, 0)
        decided = {"micro_f1": "tuned.micro_f1", "macro_f1": "tuned.macro_f1", "P@1": "precision@1", "nDCG@5": "ndcg@5"}
        for theirs, ours in decided.items():
            assert metrics["values"][ours] == pytest.approx(scores[theirs], abs=1e-5)

    def test_an_error_is_said_on_stderr_and_nothing_is_written(self, tmp_path):
        ended = process("classify", "fit", "nowhere.jsonl", "--out", tmp_path / "run", code=2, cwd=tmp_path)
        assert ended.stdout == ""
        assert ended.stderr.startswith("error: nowhere.jsonl: no such file")
        assert "Traceback" not in ended.stderr
        assert names_below(tmp_path) == []

    def test_help_does_not_import_torch(self):
        code = (
            "import sys\nfrom click.testing import CliRunner\nfrom hyperfocal.cli import main\n"
            "for words in ('', 'classify', 'classify fit', 'classify grid', 'demo classify'):\n"
            "    assert CliRunner().invoke(main, [*words.split(), '--help']).exit_code == 0, words\n"
            "heavy = {'torch', 'polars', 'numpy', 'sklearn', 'scipy', 'transformers', 'optuna', 'rich'}\n"
            "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class TestFormats:
    @pytest.mark.parametrize(
        ("name", "arguments"), [("d.csv", ("--separator", "|")), ("d.csv.gz", ()), ("d.txt.gz", ()), ("d.parquet", ())]
    )
    def test_each_is_read_by_all_three(self, tmp_path, name, arguments):
        flat, path, run = in_a_row(rows()), tmp_path / name, tmp_path / "run"
        if name.endswith(".parquet"):
            lists = [{**row, "labels": row["labels"].split("|") if row["labels"] else []} for row in flat]
            pl.DataFrame(lists).write_parquet(path)
        else:
            marked = [[*(f"__label__{part}" for part in row["labels"].split("|") if part), row["text"]] for row in flat]
            lines = "".join(" ".join(words) + "\n" for words in marked)
            raw = (lines if ".txt" in name else pl.DataFrame(flat).write_csv()).encode()
            path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
        fitted = done("classify", "fit", path, "--out", run, *NGRAMS, *arguments)
        assert "102 training documents, 6 labels" in fitted
        done("classify", "predict", run, path, "--out", tmp_path / "p.jsonl.gz")
        with gzip.open(tmp_path / "p.jsonl.gz", "rt") as file:
            predicted = [json.loads(line) for line in file]
        assert [row["id"] for row in predicted] == [
            str(place) if ".txt" in name else row["id"] for place, row in enumerate(flat)
        ]
        metrics = strictly(done("classify", "evaluate", run, path, "--json"))
        assert metrics["data"]["documents"] == 120
        assert [row["label"] for row in metrics["labels"]]

    def test_all_formats_give_the_same_run(self, tmp_path):
        flat = in_a_row(rows())
        pl.DataFrame(flat).write_csv(tmp_path / "d.csv")
        write(tmp_path / "d.jsonl", flat)
        pl.DataFrame(flat).write_parquet(tmp_path / "d.parquet")
        for name in ("csv", "jsonl", "parquet"):
            done("classify", "fit", tmp_path / f"d.{name}", "--out", tmp_path / name, *NGRAMS)
        models = {(tmp_path / name / "model.safetensors").read_bytes() for name in ("csv", "jsonl", "parquet")}
        assert len(models) == 1

    def test_both_text_columns_are_read(self, folder, tmp_path):
        """The title tells sport and travel, the body the others."""
        done("classify", "fit", folder / "train.jsonl", "--out", tmp_path / "run", "--text", "title", *NGRAMS)
        ranked = [
            strictly(done("classify", "evaluate", run, folder / "test.jsonl", "--json"))["values"]["macro_ap"]
            for run in (folder / "run", tmp_path / "run")
        ]
        assert ranked[0] > ranked[1] + 0.2


class TestFit:
    def test_without_an_encoder_it_says_so(self, folder, tmp_path, no_encoder):
        fitted = done("classify", "fit", folder / "train.jsonl", "--out", tmp_path / "run", *TEXTS, *TINY)
        assert "No sentence encoder is installed: n-grams only." in " ".join(fitted.split())
        asked = done("classify", "fit", folder / "train.jsonl", "--out", tmp_path / "asked", *TEXTS, *NGRAMS)
        assert "No sentence encoder" not in asked

    def test_an_encoder_that_is_not_installed_names_the_extra(self, folder, tmp_path, no_encoder):
        arguments = ("--out", tmp_path / "run", "--features", "encoder")
        assert "hyperfocal[encoder]" in refused("classify", "fit", folder / "train.jsonl", *arguments)
        assert names_below(tmp_path) == []

    def test_a_validation_file(self, folder, tmp_path):
        arguments = ("--valid", folder / "test.jsonl", "--out", tmp_path / "run")
        assert "120 training documents, 6 labels" in done(
            "classify", "fit", folder / "train.jsonl", *arguments, *TEXTS, *NGRAMS
        )

    def test_flags_become_settings(self, folder, tmp_path):
        flags = ("--loss", "focal", "--gamma", 3, "--cap", 7, "--decide", "global", "--seed", 5, "--id", "id")
        done("classify", "fit", folder / "train.jsonl", "--out", tmp_path / "run", *flags, *TEXTS, *NGRAMS)
        text = (tmp_path / "run" / "config.toml").read_text()
        for line in ('name = "focal"', "gamma = 3.0", "cap = 7.0", 'rule = "global"', "seed = 5", 'id = "id"'):
            assert line in text

    def test_what_is_odd_and_allowed_is_counted(self, tmp_path):
        documents = [*rows(), {"id": "e", "title": "", "body": " ", "labels": ["sport"]}]
        documents = [{**row, "labels": [*row["labels"], "all"]} for row in documents]
        other = [*rows(20, seed=2), {"id": "o", "title": "the", "body": "old", "labels": ["new", "sport"]}]
        files = write(tmp_path / "t.jsonl", documents), write(tmp_path / "v.jsonl", other)
        fitted = done("classify", "fit", files[0], "--valid", files[1], "--out", tmp_path / "run", *TEXTS, *NGRAMS)
        said = " ".join(fitted.split())
        assert "1 of 121 training documents without text" in said
        assert "Every training document has all" in said
        assert "1 label that training never saw, on validation documents 1 times" in said
        assert "excluded from macro and all other scores: new." in said

    def test_a_single_label(self, tmp_path):
        documents = [{**row, "labels": ["sport"] if "sport" in row["labels"] else []} for row in rows()]
        train = write(tmp_path / "t.jsonl", documents)
        assert " 1 label" in done("classify", "fit", train, "--out", tmp_path / "run", *TEXTS, *NGRAMS)
        assert strictly(done("classify", "evaluate", tmp_path / "run", train, "--json"))["labels"]

    def test_a_taxonomy_brings_tiers(self, folder, tmp_path):
        lines = ["id\tparent\tname", "9\t\tleisure", *(f"{n}\t9\t{name}" for n, name in enumerate(NAMES))]
        tree = tmp_path / "tree.tsv"
        tree.write_text("\n".join(lines) + "\n")
        arguments = ("--taxonomy", tree, "--set", "data.add_parents=true", "--set", "data.consistent=true")
        done("classify", "fit", folder / "train.jsonl", "--out", tmp_path / "run", *arguments, *TEXTS, *NGRAMS)
        done("classify", "predict", tmp_path / "run", folder / "test.jsonl", "--out", tmp_path / "p.jsonl")
        predicted = [json.loads(line)["labels"] for line in (tmp_path / "p.jsonl").read_text().splitlines()]
        assert any(predicted)
        assert all("9" in labels for labels in predicted if labels)


class TestAnotherRunInTheFolder:
    def test_it_is_refused_and_kept(self, folder):
        before = {name: (folder / "run" / name).stat().st_mtime_ns for name in names_below(folder / "run")}
        assert "--overwrite" in refused("classify", "fit", folder / "train.jsonl", "--out", folder / "run", *NGRAMS)
        assert {name: (folder / "run" / name).stat().st_mtime_ns for name in names_below(folder / "run")} == before

    def test_resume_and_overwrite_are_one_or_the_other(self, folder):
        arguments = ("--out", folder / "run", "--resume", "--overwrite")
        assert "Give only one of them" in refused("classify", "fit", folder / "train.jsonl", *arguments)

    def test_other_settings_are_not_resumed(self, folder):
        arguments = ("--out", folder / "run", "--resume", "--set", "train.epochs=3")
        message = refused("classify", "fit", folder / "train.jsonl", *arguments)
        assert "cannot resume with other settings (train.epochs: 2 -> 3)" in message

    def test_other_data_is_not_resumed(self, folder):
        message = refused("classify", "fit", folder / "test.jsonl", "--out", folder / "run", "--resume")
        assert "was trained on other data" in message

    def test_a_run_that_ended_is_resumed_to_the_same(self, folder):
        before = (folder / "run" / "model.safetensors").read_bytes()
        done("classify", "fit", folder / "train.jsonl", "--out", folder / "run", "--resume")
        assert (folder / "run" / "model.safetensors").read_bytes() == before

    def test_overwrite_replaces_it_but_not_for_bad_data(self, folder, tmp_path):
        out, bad = tmp_path / "run", tmp_path / "bad.jsonl"
        done("classify", "fit", folder / "train.jsonl", "--out", out, *TEXTS, *NGRAMS)
        bad.write_text("{")
        refused("classify", "fit", bad, "--out", out, "--overwrite", *NGRAMS)
        assert (out / "model.safetensors").exists()
        done("classify", "fit", folder / "train.jsonl", "--out", out, "--overwrite", "--seed", 4, *TEXTS, *NGRAMS)
        assert "seed = 4" in (out / "config.toml").read_text()

    @pytest.mark.parametrize("arguments", [(), ("--overwrite",), ("--resume",)])
    def test_other_files_are_left_alone(self, folder, tmp_path, arguments):
        (tmp_path / "mine.txt").write_text("x")
        assert "no run" in refused("classify", "fit", folder / "train.jsonl", "--out", tmp_path, *arguments)
        assert names_below(tmp_path) == ["mine.txt"]

    def test_a_run_of_the_other_job(self, tmp_path):
        log = tmp_path / "log.csv"
        users = [f"u{user},i{(user + place) % 7},{place}" for user in range(9) for place in range(5)]
        log.write_text("\n".join(["user,item,position", *users]) + "\n")
        arguments = ("--model", "markov", "--history", 2, "--next", 1)
        done("recommend", "fit", log, "--out", tmp_path / "run", *arguments)
        message = refused("classify", "predict", tmp_path / "run", log, "--out", tmp_path / "p.jsonl")
        assert "is one of `recommend`, not of `classify`" in message


GOOD = '{"id": "1", "text": "a b", "labels": ["x"]}\n'


class TestBadDocuments:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "the file is empty"),
            (GOOD * 2, "bad.jsonl line 2: id '1' is already at"),
            (GOOD + '{"id": "2", "text": \n', "line 2"),
            (GOOD + "nonsense\n", "line 2"),
            (GOOD.encode() + b'{"id": "2", "text": "\xe9", "labels": ["x"]}\n', "line 2"),
            (
                '{"id": "1", "text": "a", "labels": []}\n{"id": "2", "text": "b", "labels": []}\n',
                "no label in any of 2",
            ),
            ('{"id": "1", "text": "a"}\n', "cannot tell which column is the labels"),
            ('{"id": "1", "txt": "a", "labels": ["x"]}\n', "cannot tell which column is the text"),
            ('{"id": "1", "text": "a", "labels": [{"name": "x"}]}\n', "not a label"),
        ],
    )
    def test_a_file_that_is_wrong(self, tmp_path, content, message):
        path = tmp_path / "bad.jsonl"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        said = refused("classify", "fit", path, "--out", tmp_path / "run", *NGRAMS)
        assert "bad.jsonl" in said
        assert message in said
        assert names_below(tmp_path) == ["bad.jsonl"]

    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            (["1\t2\tsport", "2\t1\ttravel"], "its own ancestor"),
            (["1\t9\tsport"], "line 2: parent '9'"),
            (["1\t\tsport"], "labels are not in the taxonomy, first 'art'"),
        ],
    )
    def test_a_taxonomy_that_is_wrong(self, folder, tmp_path, lines, message):
        tree = tmp_path / "tree.tsv"
        tree.write_text("\n".join(["id\tparent\tname", *lines]) + "\n")
        arguments = ("--out", tmp_path / "run", "--taxonomy", tree)
        assert message in refused("classify", "fit", folder / "train.jsonl", *arguments, *TEXTS, *NGRAMS)
        assert names_below(tmp_path) == ["tree.tsv"]

    def test_a_group_in_both_files(self, tmp_path):
        documents = [{**row, "group": "g"} for row in rows(4)]
        files = write(tmp_path / "t.jsonl", documents[:2]), write(tmp_path / "v.jsonl", documents[2:])
        arguments = ("--valid", files[1], "--group", "group", "--out", tmp_path / "run")
        assert "group" in refused("classify", "fit", files[0], *arguments, *TEXTS, *NGRAMS)
        assert names_below(tmp_path) == ["t.jsonl", "v.jsonl"]


class TestBadSettings:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--cap", 0.5), "loss.cap = 0.5 is not allowed. Expected a number from 1 to 1,000,000, none, or off"),
            (("--cap", "nan"), "loss.cap = nan is not allowed"),
            (("--cap", "inf"), "loss.cap = inf is not allowed"),
            (("--cap", "six"), "loss.cap = 'six' is not allowed. Expected a number from 1 to 1,000,000, none, or off"),
            (("--set", "loss.cap=true"), "loss.cap = True is not allowed. Expected a number from 1 to 1,000,000, none"),
            (("--gamma", 9), "loss.gamma = 9.0 is not allowed"),
            (("--loss", "fokal"), "loss.name = 'fokal' is not allowed. Expected one of bce, focal"),
            (("--decide", "best"), "decide.rule = 'best' is not allowed"),
            (("--features", "words"), "features.kind = 'words' is not allowed"),
            (("--set", "train.epoch=5"), "Did you mean 'epochs'?"),
            (("--set", "epochs"), "expected SECTION.KEY=VALUE"),
            (("--labels", "label"), "Did you mean 'labels'? Columns found: id, title, body, labels"),
            (("--id", "nr"), "no column 'nr'"),
            (("--group", "family"), "no column 'family'"),
            (("--recipe", "nowhere.toml"), "no such file"),
            (("--valid", "nowhere.jsonl"), "no such file"),
            (("--taxonomy", "nowhere.tsv"), "no such file"),
            (("--recipe", ROOT / "recipes" / "caps_and_gammas.toml"), "holds a grid"),
            (("--recipe", ROOT / "recipes" / "challenge_original.toml"), "unknown key"),
            (("--finetune", "--features", "ngrams"), "trains an encoder alone, but features.kind = 'ngrams'"),
            (("--finetune", "--set", "features.kind=both"), "trains an encoder alone, but features.kind = 'both'"),
            (("--set", "features.finetune=true"), "trains an encoder alone, but features.kind = 'auto'"),
        ],
    )
    def test_nothing_is_written(self, folder, tmp_path, arguments, message):
        said = refused("classify", "fit", folder / "train.jsonl", "--out", tmp_path / "run", *TEXTS, *arguments)
        assert message in said
        assert names_below(tmp_path) == []


class TestPredict:
    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("p.txt", "rows cannot be written as .txt. Allowed: .csv, .tsv, .jsonl, .parquet"),
            ("p", "cannot tell its format"),
        ],
    )
    def test_other_formats_are_refused(self, folder, tmp_path, name, message):
        out = tmp_path / name
        assert message in refused("classify", "predict", folder / "run", folder / "test.jsonl", "--out", out)
        assert names_below(tmp_path) == []

    def test_the_documents_are_not_overwritten(self, folder, tmp_path):
        documents = write(tmp_path / "d.jsonl", rows(3))
        before = documents.read_bytes()
        linked = tmp_path / "link.jsonl"
        linked.symlink_to(documents)
        for out in (documents, linked):
            assert "would overwrite it" in refused("classify", "predict", folder / "run", documents, "--out", out)
        assert documents.read_bytes() == before

    def test_earlier_predictions_stay_when_documents_are_bad(self, folder, tmp_path):
        out, bad = tmp_path / "p.jsonl", tmp_path / "bad.jsonl"
        out.write_text("earlier")
        bad.write_text('{"id": "1", "title": "a", "body": "b"}\n{"id": \n')
        assert "line 2" in refused("classify", "predict", folder / "run", bad, "--out", out)
        assert out.read_text() == "earlier"
        assert names_below(tmp_path) == ["bad.jsonl", "p.jsonl"]

    def test_documents_without_labels_and_without_text(self, folder, tmp_path):
        documents = [{"id": "ü", "title": "", "body": ""}, {"id": "7", "title": "sport1", "body": None}]
        out = tmp_path / "p.jsonl"
        done("classify", "predict", folder / "run", write(tmp_path / "d.jsonl", documents), "--out", out)
        assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["ü", "7"]

    def test_no_run_and_half_a_run(self, folder, tmp_path):
        arguments = (folder / "test.jsonl", "--out", tmp_path / "p.jsonl")
        assert "no such folder" in refused("classify", "predict", tmp_path / "no", *arguments)
        half = tmp_path / "half"
        half.mkdir()
        for name in ("config.toml", "data.json"):
            (half / name).write_bytes((folder / "run" / name).read_bytes())
        assert "training has not finished" in refused("classify", "predict", half, *arguments)
        (half / "model.safetensors").write_bytes(b"no tensors")
        assert "is damaged" in refused("classify", "predict", half, *arguments)
        assert not (tmp_path / "p.jsonl").exists()


class TestEvaluate:
    def test_the_table_and_the_json_agree(self, folder):
        arguments = ("classify", "evaluate", folder / "run", folder / "test.jsonl")
        table, metrics = done(*arguments), strictly(done(*arguments, "--json"))
        assert max(map(len, table.splitlines())) <= 80
        line = next(line for line in table.splitlines() if "macro AP" in line)
        assert line.split()[3] == f"{metrics['values']['macro_ap']:.3f}".removeprefix("0")

    def test_labels_that_training_never_saw_are_named(self, folder, tmp_path):
        documents = write(tmp_path / "d.jsonl", [*rows(9), {"id": "n", "title": "a", "body": "b", "labels": ["new"]}])
        assert "excluded from macro and all other scores: new." in " ".join(
            done("classify", "evaluate", folder / "run", documents).split()
        )
        assert strictly(done("classify", "evaluate", folder / "run", documents, "--json"))["data"]["unseen_labels"] == {
            "new": 1
        }

    def test_no_label_of_training(self, folder, tmp_path):
        documents = write(tmp_path / "d.jsonl", [{"id": "n", "title": "a", "body": "b", "labels": ["new"]}])
        said = refused("classify", "evaluate", folder / "run", documents)
        assert "not one of 1 has a label that training has; they have other labels, such as 'new'" in said
