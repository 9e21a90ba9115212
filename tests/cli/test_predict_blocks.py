"""`predict` of files larger than memory: the same predictions, after a crash too, in memory that does not grow."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import polars as pl
import pytest

from command_cases import done, names_below, refused, write
from command_cases import rows as documents
from hyperfocal.cli.part_files import PartFiles, stamp
from hyperfocal.data.logs import Log
from hyperfocal.errors import RunError
from hyperfocal.recommend.recommender import Recommender
from hyperfocal.storage.lock import FolderLock
from packing import unpack

ENDS = [".csv", ".tsv", ".jsonl", ".csv.gz", ".csv.bz2", ".jsonl.gz", ".jsonl.zst", ".parquet"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a run that counts."""
    path = tmp_path_factory.mktemp("counts") / "run"
    rows = [[f"i{(start + step) % 30}" for step in range(6)] for start in range(60)]
    Recommender(model="markov", history=5, next_items=2).fit(Log.from_lists(rows)).save(path)
    return path


def log(path, users=300):
    """Write a log, grouped by user, some of whom have unknown items."""
    rows = [(f"u{user}", f"i{(user + step) % 31}") for user in range(users) for step in range(1 + user % 5)]
    frame = pl.DataFrame(rows, schema=["user", "item"], orient="row")
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    elif path.suffix == ".jsonl":
        frame.write_ndjson(path)
    else:
        frame.write_csv(path)
    return path


def read(path):
    if path.suffix == ".parquet":
        return pl.read_parquet(path)
    raw = unpack(path.name, path.read_bytes())
    if "jsonl" in path.name:
        return pl.read_ndjson(raw)
    return pl.read_csv(raw, separator="\t" if ".tsv" in path.name else ",")


class TestRecommend:
    @pytest.mark.parametrize("end", ENDS)
    def test_blocks_give_what_the_whole_gives(self, end, run, tmp_path):
        history = log(tmp_path / "log.csv")
        said = done("recommend", "predict", run, history, "--out", tmp_path / f"whole{end}")
        again = done("recommend", "predict", run, history, "--out", tmp_path / f"parts{end}", "--block", 50)
        assert said.replace("whole", "parts") == again
        assert read(tmp_path / f"whole{end}").equals(read(tmp_path / f"parts{end}"))
        if end in (".csv", ".tsv", ".jsonl"):
            assert (tmp_path / f"whole{end}").read_bytes() == (tmp_path / f"parts{end}").read_bytes()
        assert names_below(tmp_path) == sorted(["log.csv", f"parts{end}", f"whole{end}"])

    @pytest.mark.parametrize("name", ["log.parquet", "log.jsonl"])
    def test_other_kinds_of_logs(self, name, run, tmp_path):
        done("recommend", "predict", run, log(tmp_path / "log.csv"), "--out", tmp_path / "whole.csv")
        done("recommend", "predict", run, log(tmp_path / name), "--out", tmp_path / "parts.csv", "--block", 77)
        assert (tmp_path / "whole.csv").read_bytes() == (tmp_path / "parts.csv").read_bytes()

    @pytest.mark.parametrize("block", [(), ("--block", 77)])
    def test_parts_of_a_log(self, block, run, tmp_path):
        (tmp_path / "logs").mkdir()
        frame = pl.read_csv(log(tmp_path / "log.csv"))
        for number, start in enumerate(range(0, len(frame), 200)):
            frame.slice(start, 200).write_parquet(tmp_path / "logs" / f"part-{number}.parquet")
        done("recommend", "predict", run, tmp_path / "log.csv", "--out", tmp_path / "whole.csv")
        for name in ("logs", "logs/*.parquet"):
            done("recommend", "predict", run, tmp_path / name, "--out", tmp_path / "parts.csv", *block)
            assert (tmp_path / "whole.csv").read_bytes() == (tmp_path / "parts.csv").read_bytes()
            part = tmp_path / "logs" / "part-0.parquet"
            before = part.read_bytes()
            assert "would overwrite it" in refused("recommend", "predict", run, tmp_path / name, "--out", part)
            assert part.read_bytes() == before
        inside = tmp_path / "logs" / "sub" / "new.parquet"
        assert "is in the folder HISTORY" in refused("recommend", "predict", run, tmp_path / "logs", "--out", inside)

    @pytest.mark.parametrize("pattern", ["*.parquet", "**", "**/p*.parquet", "../l*", "../l*/*.parquet", "[a-q]*"])
    def test_predictions_do_not_become_a_part(self, pattern, run, tmp_path):
        (tmp_path / "logs").mkdir()
        pl.read_csv(log(tmp_path / "log.csv")).write_parquet(tmp_path / "logs" / "part-0.parquet")
        asked = ("recommend", "predict", run, tmp_path / "logs" / pattern)
        assert "whose parts are read" in refused(*asked, "--out", tmp_path / "logs" / "pred.parquet")
        assert names_below(tmp_path) == ["log.csv", "logs", "logs/part-0.parquet"]

    @pytest.mark.parametrize("pattern", ["part*.parquet", "*.parquet"])
    def test_predictions_that_a_pattern_does_not_name(self, pattern, run, tmp_path):
        (tmp_path / "logs").mkdir()
        pl.read_csv(log(tmp_path / "log.csv")).write_parquet(tmp_path / "logs" / "part-0.parquet")
        asked = ("recommend", "predict", run, tmp_path / "logs" / pattern)
        done(*asked, "--out", tmp_path / "logs" / "pred.csv")
        done(*asked, "--out", tmp_path / "pred.parquet")
        beside, outside = pl.read_csv(tmp_path / "logs" / "pred.csv"), pl.read_parquet(tmp_path / "pred.parquet")
        assert beside.height > 0
        assert beside["item"].to_list() == outside["item"].to_list()

    def test_other_parts_of_the_same_sizes_are_noticed(self, tmp_path):
        for name in ("a", "b"):
            (tmp_path / f"{name}.parquet").write_bytes(b"PAR1" + name.encode())
        (tmp_path / "log.csv").write_text("user,item\n")
        os.utime(tmp_path / "a.parquet", ns=(1, 10))
        os.utime(tmp_path / "b.parquet", ns=(1, 20))
        before = [stamp(path) for path in (tmp_path, tmp_path / "*.parquet")]
        assert before == [stamp(path) for path in (tmp_path, tmp_path / "*.parquet")]
        os.utime(tmp_path / "a.parquet", ns=(1, 11))
        assert all(one != two for one, two in zip(before, map(stamp, (tmp_path, tmp_path / "*.parquet")), strict=True))
        assert stamp(tmp_path / "log.csv") != stamp(tmp_path / "a.parquet")

    @pytest.mark.parametrize("end", [".parquet", ".jsonl", ".jsonl.gz", ".csv"])
    @pytest.mark.parametrize("users", [[0, 1, "x7", 3], [0, 1, 2, 3], ['a\\"{,', -1, 2, 3], [1, 2, 2**63, 2**63 + 1]])
    def test_ids_have_one_type(self, end, users, run, tmp_path):
        history = write(tmp_path / "log.jsonl", [{"user": user, "item": "i1"} for user in users for _ in range(2)])
        done("recommend", "predict", run, history, "--out", tmp_path / f"whole{end}")
        done("recommend", "predict", run, history, "--out", tmp_path / f"parts{end}", "--block", 3)
        whole, parts = (read(tmp_path / f"{name}{end}") for name in ("whole", "parts"))
        assert whole.schema == parts.schema
        assert whole.equals(parts)
        assert (
            parts["user"].unique(maintain_order=True).to_list()
            == (users if all(isinstance(user, int) for user in users) else [str(user) for user in users])
            or end == ".csv"
        )

    def test_a_challenge_is_a_submission_again(self, run, tmp_path):
        rows = [f"u{user},{step},i{(user + step) % 30}\n" for user in range(40) for step in range(1, 4)]
        (tmp_path / "log.csv").write_text("user_id,challenge_sequence,challenge\n" + "".join(rows))
        for name, block in (("whole.csv", ()), ("parts.csv", ("--block", 10))):
            done("recommend", "predict", run, tmp_path / "log.csv", "--out", tmp_path / name, *block)
        assert (tmp_path / "parts.csv").read_text().startswith("user_sequence,challenge\nu0_4,")
        assert (tmp_path / "whole.csv").read_bytes() == (tmp_path / "parts.csv").read_bytes()

    def test_a_large_file_needs_no_option(self, run, tmp_path, monkeypatch):
        monkeypatch.setattr("hyperfocal.cli.predict.LARGE_BYTES", 100)
        shuffled = tmp_path / "log.csv"
        shuffled.write_text("user,item\n" + "a,i1\nb,i2\n" * 30)
        done("recommend", "predict", run, shuffled, "--out", tmp_path / "p.csv")  # one block holds all of it
        monkeypatch.setattr("hyperfocal.cli.predict.LogPredictor.rows", 10)
        message = refused("recommend", "predict", run, shuffled, "--out", tmp_path / "p.csv")
        assert "line 11: user 'b' has rows earlier in the file" in message
        assert "Sort it by user, or set --block above its number of rows" in message

    def test_a_failure_in_the_middle_goes_on_with_resume(self, run, tmp_path):
        history, out = log(tmp_path / "log.csv"), tmp_path / "p.csv"
        good = history.read_bytes()
        done("recommend", "predict", run, history, "--out", tmp_path / "whole.csv", "--block", 50)
        asked = ("recommend", "predict", run, history, "--out", out, "--block", 50)
        stat = history.stat()
        history.write_bytes(good[:-9] + b"a,b,c,dd\n")
        os.utime(history, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert "fields, the header 2" in refused(*asked)
        made = names_below(tmp_path / "p.csv.parts")
        assert "part-00001.csv" in made
        assert not out.exists()
        assert "holds parts of unfinished predictions. Continue them with --resume" in refused(*asked)
        history.write_bytes(good)
        os.utime(history, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert "with another --block" in refused(*asked[:-1], 49, "--resume")
        assert "with another --k" in refused(*asked, "--resume", "--k", 1)
        done(*asked, "--resume")
        assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()

    def test_other_data_or_damaged_parts_are_not_gone_on_with(self, run, tmp_path):
        history, out = log(tmp_path / "log.csv"), tmp_path / "p.csv"
        asked = ("recommend", "predict", run, history, "--out", out, "--block", 50, "--resume")
        parts = tmp_path / "p.csv.parts"
        parts.mkdir()
        (parts / "thesis.tex").write_text("years of work")
        assert "holds other files (thesis.tex) and no parts" in refused(*asked)
        (parts / "plan.json").write_text("[]")
        assert "with another HISTORY, RUN, --block" in refused(*asked)
        (parts / "plan.json").write_text("[")
        assert "plan.json: is damaged" in refused(*asked)
        assert (parts / "thesis.tex").read_text() == "years of work"

    def test_a_planted_link_in_place_of_the_parts(self, run, tmp_path):
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "p.csv.parts").symlink_to("elsewhere")
        asked = ("recommend", "predict", run, log(tmp_path / "log.csv"), "--out", tmp_path / "p.csv", "--block", 50)
        assert "p.csv.parts: is no folder of this user" in refused(*asked)
        assert list((tmp_path / "elsewhere").iterdir()) == []

    def test_parts_that_another_process_writes(self, run, tmp_path):
        """Nobody is told to remove a folder while it is written to."""
        out, parts = tmp_path / "p.csv", tmp_path / "p.csv.parts"
        asked = ("recommend", "predict", run, log(tmp_path / "log.csv"), "--out", out, "--block", 50)
        parts.mkdir()
        (parts / "plan.json").write_text("{}")
        with FolderLock(parts):
            for resume in ((), ("--resume",)):
                assert f"{parts}: process {os.getpid()} on " in refused(*asked, *resume)
        assert "remove the folder to start over" in refused(*asked)
        assert names_below(parts) == ["plan.json"]

    def test_an_empty_folder_that_a_killed_process_left(self, run, tmp_path):
        (tmp_path / "p.csv.parts" / ".hyperfocal-0123456789abcdef").mkdir(parents=True)
        (tmp_path / "p.csv.parts" / ".lock").write_text("{}")
        asked = ("recommend", "predict", run, log(tmp_path / "log.csv"), "--out", tmp_path / "p.csv", "--block", 50)
        done(*asked)
        assert names_below(tmp_path) == ["log.csv", "p.csv"]

    def test_a_folder_of_the_user_among_the_parts_is_not_removed_with_them(self, run, tmp_path):
        mine = tmp_path / "p.csv.parts" / ".hyperfocal-notes" / "thesis.tex"
        mine.parent.mkdir(parents=True)
        mine.write_text("years of work")
        asked = ("recommend", "predict", run, log(tmp_path / "log.csv"), "--out", tmp_path / "p.csv", "--block", 50)
        assert "holds other files (.hyperfocal-notes) and no parts" in refused(*asked)
        assert mine.read_text() == "years of work"

    def test_a_damaged_part_is_named(self, tmp_path):
        parts = PartFiles(tmp_path / "p.parquet", {})
        for number in range(2):
            parts.put(
                number, pl.DataFrame({"user": [number]}), Counter(), lambda frame, path, _: frame.write_parquet(path)
            )
        part = tmp_path / "p.parquet.parts" / "part-00001.parquet"
        part.write_bytes(part.read_bytes()[:-6])
        with pytest.raises(RunError, match=r"part-00001\.parquet: is damaged .*Remove the folder"):
            parts.join(2)
        assert names_below(tmp_path) == [
            "p.parquet.parts",
            *(f"p.parquet.parts/{name}" for name in ("part-00000.json", "part-00000.parquet", "part-00001.json")),
            "p.parquet.parts/part-00001.parquet",
            "p.parquet.parts/plan.json",
        ]

    def test_a_block_of_no_rows(self, run, tmp_path):
        result = subprocess.run(
            [sys.executable, "-m", "hyperfocal", "recommend", "predict", run, "x", "--out", "y.csv", "--block", "0"],
            capture_output=True, text=True, cwd=tmp_path,
        )  # fmt: skip
        assert result.returncode == 2
        assert "0 is not in the range x>=1" in result.stderr


class TestClassify:
    @pytest.mark.parametrize("end", ENDS)
    def test_blocks_give_what_the_whole_gives(self, end, folder, tmp_path):
        docs = folder / "test.jsonl"
        said = done("classify", "predict", folder / "run", docs, "--out", tmp_path / f"whole{end}")
        again = done("classify", "predict", folder / "run", docs, "--out", tmp_path / f"parts{end}", "--block", 7)
        assert said.replace("whole", "parts") == again
        assert read(tmp_path / f"whole{end}").equals(read(tmp_path / f"parts{end}"))
        assert not (tmp_path / f"parts{end}.parts").exists()

    def test_every_format_holds_the_same(self, folder, tmp_path):
        for end in (".jsonl", ".csv", ".parquet"):
            done("classify", "predict", folder / "run", folder / "test.jsonl", "--out", tmp_path / f"p{end}")
        lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
        csv, table = read(tmp_path / "p.csv"), read(tmp_path / "p.parquet")
        for name in ("labels", "scores"):
            assert [json.loads(text) for text in csv[name]] == [line[name] for line in lines]
        assert table["labels"].to_list() == [line["labels"] for line in lines]
        pairs = [{pair["label"]: pair["probability"] for pair in row} for row in table["scores"].to_list()]
        assert pairs == [line["scores"] for line in lines]

    def test_documents_without_an_id_are_numbered_through(self, folder, tmp_path):
        (tmp_path / "d.csv").write_text("title,body\n" + "sport0,a\n" * 5)
        done("classify", "predict", folder / "run", tmp_path / "d.csv", "--out", tmp_path / "p.csv", "--block", 2)
        assert read(tmp_path / "p.csv")["id"].to_list() == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("end", [".parquet", ".jsonl", ".csv"])
    def test_ids_have_one_type(self, end, folder, tmp_path):
        docs = write(tmp_path / "d.jsonl", [row | {"id": n or "x7"} for n, row in enumerate(documents(5))])
        done("classify", "predict", folder / "run", docs, "--out", tmp_path / f"whole{end}")
        done("classify", "predict", folder / "run", docs, "--out", tmp_path / f"parts{end}", "--block", 2)
        assert read(tmp_path / f"parts{end}").equals(read(tmp_path / f"whole{end}"))
        assert read(tmp_path / f"parts{end}")["id"].cast(pl.String).to_list() == ["x7", "1", "2", "3", "4"]

    def test_an_id_twice_in_different_blocks(self, folder, tmp_path):
        twice = write(tmp_path / "d.jsonl", [*documents(4), documents(1)[0]])
        asked = ("classify", "predict", folder / "run", twice, "--out", tmp_path / "p.csv", "--block", 2)
        assert "line 5: id '0-0' is also on an earlier line" in refused(*asked)


def grouped_log(path, users):
    """Write a large log, ten rows a user, block by block."""
    numbers = pl.int_range(0, 10, eager=True)
    with path.open("wb") as out:
        for start in range(0, users, 20_000):
            ids = pl.DataFrame({"user": range(start, min(start + 20_000, users))}).join(
                pl.DataFrame({"n": numbers}), how="cross"
            )
            rows = ids.select(pl.col("user"), item=pl.format("i{}", (pl.col("user") + pl.col("n")) % 31))
            rows.write_csv(out, include_header=start == 0)
    return path


def started(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "hyperfocal", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def stopped(sent, marks, *arguments):
    """Send a signal to a command once it has written some parts; return it, ended, and what it said."""
    process = started(*arguments)
    deadline = time.monotonic() + 60
    while len(list(marks.glob("part-*.json"))) < 3:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(sent)
    return process, process.communicate()[1].decode()


@pytest.mark.parametrize("end", [".csv.gz", pytest.param(".parquet", marks=pytest.mark.slow)])
def test_after_kill_9_the_rest_is_done_and_the_bytes_are_the_same(end, run, tmp_path):
    history = grouped_log(tmp_path / "log.csv", 8_000)
    out, marks = tmp_path / f"p{end}", tmp_path / f"p{end}.parts"
    asked = ("recommend", "predict", run, history, "--block", 1_000)
    done(*asked, "--out", tmp_path / f"whole{end}")
    process, _ = stopped(signal.SIGKILL, marks, *asked, "--out", out)
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()
    before = {path: path.stat().st_mtime_ns for path in marks.glob("part-*.json")}
    assert 3 <= len(before) < 80
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hyperfocal.cli.part_files.discard", kept.append)
        done(*asked, "--out", out, "--resume")
    assert kept == [marks]
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())  # what was done was not done again
    assert len(list(marks.glob("part-*.json"))) == 80
    assert out.read_bytes() == (tmp_path / f"whole{end}").read_bytes()


def test_ctrl_c_says_how_to_go_on(run, tmp_path):
    history, marks = grouped_log(tmp_path / "log.csv", 8_000), tmp_path / "p.csv.parts"
    asked = ("recommend", "predict", run, history, "--block", 1_000, "--out", tmp_path / "p.csv")
    process, said = stopped(signal.SIGINT, marks, *asked)
    assert process.returncode == 130
    assert f"stopped. The same command with --resume continues with the parts in {marks}." in said
    assert "Traceback" not in said


def test_a_first_block_that_fails_leaves_nothing(run, tmp_path):
    history = log(tmp_path / "log.csv")
    asked = ("recommend", "predict", run, history, "--out", tmp_path / "p.csv", "--block", 50)
    assert "k = 99 is not allowed" in refused(*asked, "--k", 99)
    pl.DataFrame(schema={"user": pl.String, "item": pl.String}).write_parquet(tmp_path / "none.parquet")
    asked = ("recommend", "predict", run, tmp_path / "none.parquet", "--out", tmp_path / "p.csv", "--block", 50)
    assert "has no rows" in refused(*asked)
    assert names_below(tmp_path) == ["log.csv", "none.parquet"]


MEASURE = """
import sys
from pathlib import Path
from hyperfocal.cli import main
try:
    main(sys.argv[1:])
except SystemExit as ended:
    assert ended.code == 0, ended.code
status = Path("/proc/self/status").read_text().splitlines()  # ru_maxrss counts the process that forked this one too
print("PEAK", next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) // 1024)
"""


def peak_mib(*arguments):
    """Run a command in a process of its own; return its largest memory in MiB."""
    command = [sys.executable, "-c", MEASURE, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout.split("PEAK")[1])


@pytest.mark.slow
@pytest.mark.parametrize("end", [".csv", ".parquet"])
def test_memory_does_not_grow_with_the_file(end, run, tmp_path):
    small, large = grouped_log(tmp_path / "s.csv", 30_000), grouped_log(tmp_path / "l.csv", 300_000)  # 3 million rows
    if end == ".parquet":
        for path in (small, large):
            pl.scan_csv(path).sink_parquet(path.with_suffix(end), row_group_size=100_000)
    peaks = [
        peak_mib("recommend", "predict", run, path.with_suffix(end), "--out", tmp_path / f"p{end}", "--block", 50_000)
        for path in (small, large)
    ]
    assert peaks[1] < peaks[0] + 100, peaks
    at_once = peak_mib(
        "recommend", "predict", run, large.with_suffix(end), "--out", tmp_path / "o.csv", "--block", 9**9
    )
    assert at_once > peaks[1] + 100, (at_once, peaks)  # the measure sees what it should
