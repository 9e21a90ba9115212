"""The command line on real files: what it writes, what it says, and what it refuses with exit code 2."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from hyperfocal.cli import main
from hyperfocal.data.synthetic_logs import make_challenges, write_challenges

ROOT = Path(__file__).parents[1]
FAST = ("--set", "train.epochs=2", "--set", "train.threads=1")
WEIRD = ["007", "a b", "x,y", 'say "hi"', "naïve ☃", "L" * 300]


def call(*arguments):
    """Run a command; return exit code and everything printed."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def refused(*arguments):
    """Run a command that must end with exit code 2; return its message."""
    code, output = call(*arguments)
    assert code == 2, output
    assert "Traceback" not in output
    return output


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a small challenge and a fitted run."""
    path = tmp_path_factory.mktemp("challenge")
    write_challenges(make_challenges(users=300, challenges=60, seed=1), path)
    assert call("recommend", "fit", path / "train.csv", "--out", path / "run", *FAST)[0] == 0
    return path


@pytest.fixture
def log(tmp_path):
    """Write a log file and return its path."""

    def write(text, name="log.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def long_log(users=6, items=12):
    rows = [f"u{user},i{(user + place) % 15},{place}" for user in range(users) for place in range(items)]
    return "\n".join(["user,item,position", *rows]) + "\n"


class TestFit:
    def test_prints_the_table_the_verdict_and_the_next_command(self, folder, tmp_path):
        code, output = call("recommend", "fit", folder / "train.csv", "--out", tmp_path / "run", *FAST)
        assert code == 0
        for words in ("216 training users", "decayed_markov", "95% interval", "transformer"):
            assert words in output
        assert f"hyperfocal recommend predict {tmp_path / 'run'} HISTORY" in output.replace("\n", " ")
        assert max(map(len, output.splitlines()[:14])) <= 80

    def test_a_validation_file_with_its_truth(self, folder, tmp_path):
        files = ("--valid", folder / "test.csv", "--valid-truth", folder / "test_truth.csv")
        code, output = call("recommend", "fit", folder / "train.csv", "--out", tmp_path / "run", *files, *FAST)
        assert code == 0
        assert "Validation, 60 users" in output

    def test_a_recipe_and_settings_on_top(self, folder, tmp_path):
        recipe = ROOT / "recipes" / "challenge_original.toml"
        arguments = ("--recipe", recipe, "--seed", 3, "--set", "loss.gamma=1.5")
        assert call("recommend", "fit", folder / "train.csv", "--out", tmp_path / "run", *arguments, *FAST)[0] == 0
        text = (tmp_path / "run" / "config.toml").read_text()
        for line in ("seed = 3", "gamma = 1.5", 'optimizer = "sgd"', "epochs = 2", "valid_fraction = 0.3"):
            assert line in text

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "the file is empty"),
            ("user,item,position\n", "no rows"),
            ("user,itm,position,x\nu,i,1,2\n", "cannot tell which column is the item"),
            ("user,item,position\nu,i,1\nu,i\n", "no user has 2 items or more"),
            ("user,item,position\nu,i,soon\n", "neither a number nor a time"),
            ("user,item,position\nu,i,1\nu,j,1\n", "has position 1 twice"),
            ("user,item,position\nu,i,1\nv,j,2\n", "no user has 2 items or more"),
            (b"user,item,position\nu,\xff\xfe,1\n", "not readable"),
        ],
    )
    def test_a_bad_log_writes_nothing(self, log, tmp_path, text, message):
        assert message in refused("recommend", "fit", log(text), "--out", tmp_path / "run").replace("\n", " ")
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--item", "itm"), "Did you mean 'item'? Columns found: user, item, position"),
            (("--set", "train.epoch=5"), "Did you mean 'epochs'?"),
            (("--set", "loss.gamma=9"), "loss.gamma = 9 is not allowed. Expected"),
            (("--set", "epochs"), "expected SECTION.KEY=VALUE"),
            (
                ("--model", "marcov"),
                "one of transformer, gru, mean, concat_mlp, popularity, cooccurrence, markov, decayed_markov, "
                "item_knn, ease, user_knn",
            ),
            (("--history", "0"), "data.history = 0 is not allowed"),
            (("--next", "16"), "data.next asks for the best 16 items, but training has 15"),
            (("--recipe", "nowhere.toml"), "no such file"),
            (("--valid", "nowhere.csv"), "no such file"),
        ],
    )
    def test_a_bad_setting_writes_nothing(self, log, tmp_path, arguments, message):
        output = refused("recommend", "fit", log(long_log()), "--out", tmp_path / "run", *arguments)
        assert message in output
        assert not (tmp_path / "run").exists()

    def test_an_error_is_one_line_on_stderr(self, tmp_path):
        result = CliRunner().invoke(main, ["recommend", "fit", "nowhere.csv", "--out", str(tmp_path / "run")])
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith("error: nowhere.csv: no such file")

    def test_a_missing_file_says_where_it_looked(self, tmp_path):
        assert str(Path.cwd()) in refused("recommend", "fit", "nowhere.csv", "--out", tmp_path / "run")

    def test_another_run_is_refused_and_kept(self, folder):
        before = (folder / "run" / "model.safetensors").read_bytes()
        assert "--overwrite" in refused("recommend", "fit", folder / "train.csv", "--out", folder / "run")
        assert (folder / "run" / "model.safetensors").read_bytes() == before

    def test_resume_and_overwrite_are_one_or_the_other(self, folder):
        assert "Give only one of them" in refused(
            "recommend", "fit", folder / "train.csv", "--out", folder / "run", "--resume", "--overwrite"
        )

    def test_somebody_elses_config_is_no_run(self, folder, tmp_path):
        (tmp_path / "config.toml").write_text("title = 'my site'")
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / "mine.pt").write_text("x")
        assert "no run" in refused("recommend", "fit", folder / "train.csv", "--out", tmp_path, "--overwrite")
        assert (tmp_path / "checkpoints" / "mine.pt").exists()

    def test_numbers_beyond_all_reason(self, folder, tmp_path):
        for setting in ("--seed", "--next", "--history"):
            message = refused("recommend", "fit", folder / "train.csv", "--out", tmp_path / "run", setting, 10**20)
            assert "is not allowed" in message

    def test_a_folder_of_other_things_is_refused(self, folder):
        assert "no run" in refused("recommend", "fit", folder / "train.csv", "--out", folder, "--overwrite")


class TestPredict:
    def test_a_submission_for_the_challenge_format(self, folder, tmp_path):
        out = tmp_path / "submission.csv"
        code, output = call("recommend", "predict", folder / "run", folder / "test.csv", "--out", out)
        assert code == 0
        assert "180 rows for 60 users written" in output
        sample = pl.read_csv(folder / "sample_submission.csv", infer_schema=False)
        got = pl.read_csv(out, infer_schema=False)
        assert got.columns == sample.columns
        assert got["user_sequence"].to_list() == sample["user_sequence"].to_list()

    @pytest.mark.parametrize("name", ["p.csv", "p.csv.gz", "p.tsv", "p.jsonl", "p.parquet"])
    def test_every_format_and_every_id_survives(self, tmp_path, name):
        rows = [(f"{user} ☃,'{user}", item) for user in range(20) for item in WEIRD]
        frame = pl.DataFrame(rows, schema=["customer", "product"], orient="row")
        frame.write_csv(tmp_path / "log.csv")
        arguments = ("--history", 3, "--next", 1, "--model", "markov")
        assert call("recommend", "fit", tmp_path / "log.csv", "--out", tmp_path / "run", *arguments)[0] == 0
        code, output = call(
            "recommend", "predict", tmp_path / "run", tmp_path / "log.csv", "--out", tmp_path / name, "--repeats"
        )
        assert code == 0, output
        read = {"parquet": pl.read_parquet, "jsonl": pl.read_ndjson}.get(name.rpartition(".")[2], pl.read_csv)
        options = {"separator": "\t"} if "tsv" in name else {}
        got = read(tmp_path / name, **options)
        assert got.columns == ["customer", "product", "rank", "score", "known"]
        assert set(got["customer"].cast(pl.String)) == set(frame["customer"])
        assert set(got["product"].cast(pl.String)) <= set(WEIRD)

    def test_unknown_items_are_said_and_not_fatal(self, folder, log, tmp_path):
        history = log("user,item\nnew,never\nnew,ever\n")
        code, output = call("recommend", "predict", folder / "run", history, "--out", tmp_path / "p.csv")
        assert code == 0
        assert "2 events are on items that training never saw" in output

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--k", "1000"), "k = 1000 is not allowed. Expected 1 to"),
            (("--k", "0"), "k = 0 is not allowed"),
        ],
    )
    def test_a_wrong_k_writes_nothing(self, folder, tmp_path, arguments, message):
        out = tmp_path / "p.csv"
        assert message in refused("recommend", "predict", folder / "run", folder / "test.csv", "--out", out, *arguments)
        assert not out.exists()

    def test_an_unknown_output_format(self, folder, tmp_path):
        out = tmp_path / "p.xlsx"
        assert "cannot tell its format" in refused(
            "recommend", "predict", folder / "run", folder / "test.csv", "--out", out
        )

    def test_the_history_is_not_overwritten(self, folder, tmp_path):
        log = tmp_path / "test.csv"
        log.write_bytes((folder / "test.csv").read_bytes())
        assert "would overwrite it" in refused("recommend", "predict", folder / "run", log, "--out", log)
        assert log.read_bytes() == (folder / "test.csv").read_bytes()

    def test_no_run(self, folder, tmp_path):
        out = tmp_path / "p.csv"
        assert "no such folder" in refused("recommend", "predict", tmp_path / "no", folder / "test.csv", "--out", out)


class TestEvaluate:
    def test_the_table_and_the_json_agree(self, folder):
        arguments = ("recommend", "evaluate", folder / "run", folder / "test.csv", "--truth", folder / "test_truth.csv")
        _, table = call(*arguments)
        code, text = call(*arguments, "--json")
        assert code == 0
        mean = json.loads(text)["scores"]["markov"]["map@3"]["mean"]
        line = next(line for line in table.splitlines() if line.split()[:1] == ["markov"])
        assert line.split()[1] == f"{mean:.4f}".removeprefix("0")


class TestProcesses:
    """Real processes: start-up, Ctrl-C, a pipe."""

    def test_help_does_not_import_torch(self):
        code = "import sys, hyperfocal.cli; assert not {'torch', 'polars', 'numpy'} & set(sys.modules)"
        subprocess.run([sys.executable, "-c", code], check=True)
        help_of = subprocess.run([sys.executable, "-m", "hyperfocal", "--help"], capture_output=True, text=True)
        assert "hyperfocal demo" in help_of.stdout

    def test_ctrl_c_leaves_a_run_that_resume_continues(self, folder, tmp_path):
        """Stopped at any moment and continued, it ends with the bytes of a run that was never stopped."""
        settings = ("--set", "train.epochs=10", "--set", "train.patience=0", "--set", "train.batch_size=4",
                    "--set", "train.threads=1", "--set", "train.checkpoint_seconds=0.05")  # fmt: skip
        command = ["recommend", "fit", folder / "train.csv", *settings]
        process = subprocess.Popen(
            [sys.executable, "-m", "hyperfocal", *command, "--out", tmp_path / "run"], stderr=subprocess.PIPE, text=True
        )
        while not (tmp_path / "run" / "checkpoints" / "last.safetensors").exists():
            time.sleep(0.01)
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 130, errors
        assert "with --resume continues" in errors
        assert not (tmp_path / "run" / "model.safetensors").exists()
        for arguments in (("--out", tmp_path / "run", "--resume"), ("--out", tmp_path / "whole")):
            assert call(*command, *arguments)[0] == 0
        for name in ("model.safetensors", "metrics.json"):
            assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

    @pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
    def test_a_full_disk_is_said_and_the_input_is_safe(self, folder, tmp_path):
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", disk], capture_output=True, text=True
        )
        if mount.returncode:
            pytest.skip(f"no small disk to be had: {mount.stderr}")
        try:
            message = refused("recommend", "fit", folder / "train.csv", "--out", disk / "run", *FAST)
            assert "No space left" in message
            assert not list(disk.rglob("*.safetensors"))
        finally:
            subprocess.run(["umount", disk], check=True)


def test_a_gz_log_and_a_line_log_give_the_same(tmp_path, log):
    rows = [[f"u{user}", *[f"i{(user + place) % 15}" for place in range(12)]] for user in range(8)]
    lines = log("\n".join(" ".join(row) for row in rows), "log.txt")
    with gzip.open(tmp_path / "log.csv.gz", "wt") as file:
        file.write("user,item\n" + "".join(f"{user},{item}\n" for user, *items in rows for item in items))
    outputs = [
        call("recommend", "fit", path, "--out", tmp_path / str(number), "--model", "markov")[1].split("Run folder")[0]
        for number, path in enumerate((lines, tmp_path / "log.csv.gz"))
    ]
    assert outputs[0] == outputs[1]


@pytest.mark.slow
def test_the_demo(tmp_path):
    code, output = call("demo", "--out", tmp_path / "demo", "--users", 500, "--challenges", 60, "--epochs", 3)
    assert code == 0
    assert "Three users" in output
    assert (tmp_path / "demo" / "predictions.csv").exists()
    assert call("demo", "--out", tmp_path / "demo", "--users", 500, "--challenges", 60, "--epochs", 1)[0] == 0


def test_the_demo_takes_no_folder_of_somebody_else(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    assert "Choose another folder" in refused("demo", "--out", tmp_path)
    assert "is not allowed" in refused("demo", "--out", tmp_path / "new", "--epochs", 0)
    assert not (tmp_path / "new").exists()
