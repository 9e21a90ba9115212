"""Commands of users whose cache folder is missing, full, read-only or another user's: they work, and leave nothing."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager, suppress

import polars as pl
import pytest

from user_cases import OTHER, give, needs_root, public_folder

CASES = {  # user, and what the one line about the cache says
    "no home": (OTHER, "the user has no home folder"),
    "missing": (OTHER, "Permission denied"),
    "read-only": (OTHER, "Permission denied"),
    "full": (OTHER, "No space left on device"),
    "no names left": (OTHER, "No space left on device"),
    "another user's": (0, f"belongs to another user, uid {OTHER}"),
    "another user's cache": (0, f"belongs to another user, uid {OTHER}"),
    "linked by another user": (0, f"belongs to another user, uid {OTHER}"),
    "writable by all": (OTHER, "other users can write to it, mode 0777"),
}
FAST = ["--set", "train.epochs=1", "--set", "train.threads=1"]
FITS = [
    ["recommend", "fit", "log.csv", "--out", "recommend", *FAST, "--set", "data.stream=on"],
    ["classify", "fit", "texts.jsonl", "--out", "classify", *FAST, "--set", "features.kind=ngrams"],
    ["classify", "fit", "texts.jsonl", "--out", "stored", *FAST, "--set", "features.kind=ngrams", "--set",
     "data.stream=on"],
    ["report", "recommend"],
]  # fmt: skip
PROGRAM = """
import json, os, sys
from click.testing import CliRunner
from hyperfocal.cli import main
from hyperfocal.report import page
page.make_bundle = lambda: "x"  # another user may not be allowed to start this Python
commands, user, homes = json.loads(sys.argv[1])

def run(folder):
    os.chdir(folder)
    ended = [CliRunner().invoke(main, words) for words in commands]
    os.chdir("..")
    return [[each.exit_code, each.output, repr(each.exception)] for each in ended]

os.environ["HYPERFOCAL_CACHE"] = os.path.abspath("cache")
assert [code for code, _, _ in run("first")] == [0] * len(commands)  # imports all that the other user cannot read
del os.environ["HYPERFOCAL_CACHE"]
if user:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
results = {}
for case, home in homes.items():
    os.environ.pop("HOME", None)
    if home:
        os.environ["HOME"] = home
    results[case] = run(case)
print(json.dumps(results))
"""


def write_data(folder):
    rows = [(f"u{user}", f"i{(user + step) % 9}", step) for user in range(30) for step in range(6)]
    pl.DataFrame(rows, schema=["user", "item", "order"], orient="row").write_csv(folder / "log.csv")
    texts = [{"text": f"{word} and {word}s", "labels": [word]} for word in ("sport", "music", "food") * 12]
    (folder / "texts.jsonl").write_text("".join(f"{json.dumps(text)}\n" for text in texts))


def make_home(case: str, home) -> None:
    """Make the home folder of a case."""
    if case in ("no home", "missing"):
        return
    home.mkdir()
    cache = home / ".cache" / "hyperfocal"
    if case in ("another user's cache", "writable by all"):
        cache.mkdir(parents=True)
    give(home)
    if case == "writable by all":
        cache.chmod(0o777)
    elif case == "read-only":
        home.chmod(0o500)
    elif case == "linked by another user":
        (home / "roots").mkdir()
        (home / ".cache").symlink_to("roots")
        os.lchown(home / ".cache", OTHER, OTHER)
    elif case in ("full", "no names left"):
        options = f"size=16k,nr_inodes={2 if case == 'no names left' else 99},uid={OTHER},mode=755"
        mount = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", home], capture_output=True, text=True)
        if mount.returncode:
            pytest.skip(f"cannot mount a small file system: {mount.stderr}")
        with suppress(OSError), (home / "filler").open("wb", buffering=0) as filler:
            while case == "full":
                filler.write(bytes(4_096))


@contextmanager
def homes(place, cases):
    """Yield case -> its home folder, with the folders that the commands of each case run in."""
    paths = {case: place / f"home of {case}" for case in cases}
    try:
        for case, home in paths.items():
            (place / case).mkdir()
            write_data(place / case)
            give(place / case, CASES[case][0])
            make_home(case, home)
        yield paths
    finally:
        for home in paths.values():
            if os.path.ismount(home):
                subprocess.run(["umount", home], check=True)


@needs_root
@pytest.mark.parametrize("user", [0, OTHER])
def test_every_command_works_and_leaves_nothing(user):
    cases = {case: reason for case, (whose, reason) in CASES.items() if whose == user}
    with public_folder() as place, homes(place, cases) as paths:
        for name in ("first", "tmp"):
            (place / name).mkdir()
        write_data(place / "first")
        give(place / "tmp", user)
        before = {case: sorted(home.rglob("*")) for case, home in paths.items()}
        given = {case: "" if case == "no home" else str(home) for case, home in paths.items()}
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM, json.dumps([FITS, user, given])],
            cwd=place,
            env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(place / "tmp"), "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, ended.stderr
        for case, results in json.loads(ended.stdout).items():
            assert [code for code, _, _ in results] == [0] * len(FITS), (case, results)
            lines = [line for _, output, _ in results for line in output.splitlines() if line.startswith("cache ")]
            assert 1 <= len({line.partition(": ")[0] for line in lines}) == len(lines), (case, "one for each folder")
            assert len(lines) == 1 or case in (
                "full",
                "no names left",
            )  # there, each folder in the cache can be made, but no file in it
            assert cases[case] in lines[0]
            made = {path.name for path in paths[case].rglob("*") if path not in before[case]}
            assert made <= ({".cache", "hyperfocal", "logs", "documents"} if case == "full" else set())
            for file in ("model.safetensors", "metrics.json"):
                for run in ("recommend", "classify", "stored"):
                    assert (place / case / run / file).read_bytes() == (place / "first" / run / file).read_bytes()
        assert list((place / "tmp").glob("hyperfocal*")) == []
