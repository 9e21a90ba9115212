"""Names of any bytes, and labels of any characters: they work or end in one error, and never reach a terminal raw."""

import json
import os
import subprocess
import sys

import pytest

from hyperfocal.data.files import write_lines
from hyperfocal.errors import ConfigError, printable
from hyperfocal.storage.run_folder import RunFolder
from hyperfocal.training.weights import verify_run
from log_cases import log

ODD = b"odd\xff\x1b[31m"  # no UTF-8, and an escape sequence


def test_a_run_whose_name_is_not_utf8_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="not valid UTF-8"):
        RunFolder(os.fsdecode(os.fsencode(tmp_path) + b"/" + ODD))


@pytest.mark.parametrize("code", [*range(9), *range(11, 32), *range(127, 160), 0xD800, 0xDCFF])
def test_every_control_character_is_escaped(code):
    assert printable(f"a{chr(code)}b") == f"a\\x{code & 0xFF:02x}b"


def test_other_characters_stay():
    assert printable("é\u4e2d\n\t🍷 x") == "é\u4e2d\n\t🍷 x"


COMMANDS = {
    "inspect": ("inspect", "log.csv"),
    "fit": ("recommend", "fit", "log.csv", "--out", "fit", "--model", "markov"),
    "help": ("recommend", "--help"),
    "error": ("inspect", "none.csv"),
}


@pytest.mark.parametrize("stream", ["closed", "full", "pipe"])
@pytest.mark.parametrize("name", COMMANDS)
def test_an_output_that_takes_nothing(name, stream, tmp_path):
    """The command ends by itself, without a traceback, and its files are whole."""
    log().write_csv(tmp_path / "log.csv")
    words = " ".join(COMMANDS[name])
    redirect = {"closed": ">&- 2>&-", "full": ">/dev/full 2>err", "pipe": "2>err | true"}[stream]
    script = f'set -o pipefail; "{sys.executable}" -m hyperfocal {words} {redirect}'
    ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert ended.returncode in (0, 1, 2, 141)
    errors = ended.stderr + ((tmp_path / "err").read_text() if stream != "closed" else "")
    assert "Traceback" not in errors
    if name == "fit" and (tmp_path / "fit").exists():
        assert verify_run(RunFolder.open(tmp_path / "fit")) == {}


IN_TURN = """
import json, sys
from hyperfocal.cli import main
commands, path = json.load(sys.stdin)
codes = []
for words in commands:
    try:
        main(words)
    except SystemExit as ended:
        codes.append(ended.code or 0)
json.dump(codes, open(path, "w"))
"""
EVIL = "\x1b]0;mine\x07\x1b[2Jred"  # sets the title of the terminal, and clears it


def test_labels_items_and_columns_with_escape_sequences_reach_no_terminal(tmp_path):
    texts = [{"text": f"{word} and {word}s", "labels": [word, EVIL]} for word in ("sport", "music", EVIL) * 12]
    write_lines(texts, tmp_path / "docs.jsonl")
    rows = "".join(f"u{n // 9},{EVIL if n % 9 == 4 else n % 9},{n}\n" for n in range(270))
    (tmp_path / "log.csv").write_text(f"user,item,order\n{rows}")
    (tmp_path / "bad.csv").write_text(f"user,{EVIL}\na,b\n")
    few = ["--set", "train.epochs=1", "--set", "train.threads=1"]
    commands = [
        ["inspect", "docs.jsonl"],
        ["inspect", "bad.csv"],
        ["classify", "fit", "docs.jsonl", "--out", "labels", "--features", "ngrams", *few],
        ["classify", "evaluate", "labels", "docs.jsonl"],
        [
            "classify",
            "grid",
            "docs.jsonl",
            "--out",
            "grid",
            "--set",
            "features.kind=ngrams",
            "--caps",
            "none,4",
            "--seeds",
            "1",
            *few,
        ],
        ["recommend", "fit", "log.csv", "--out", "ranks", "--model", "markov"],
        ["recommend", "fit", "bad.csv", "--out", "none"],
        ["recommend", "predict", "ranks", "log.csv", "--out", f"{EVIL}.csv"],
        ["recommend", "evaluate", "ranks", "log.csv"],
        ["verify", EVIL],
    ]
    written = json.dumps([commands, str(tmp_path / "codes")])
    ended = subprocess.run([sys.executable, "-c", IN_TURN], input=written.encode(), capture_output=True, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    raw = [line for line in (ended.stdout + ended.stderr).splitlines() if b"\x1b" in line or b"\x07" in line]
    assert not raw
    assert json.loads((tmp_path / "codes").read_text()) == [0, 0, 0, 0, 0, 0, 2, 0, 0, 2]
    for command, said in {"inspect": b"sport", "fit": b"Run folder", "evaluate": b"macro AP", "verify": b"x1b"}.items():
        assert said in ended.stdout + ended.stderr, command
