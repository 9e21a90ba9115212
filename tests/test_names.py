"""Names of any bytes, and labels of any characters: they work or end in one error, and never reach a terminal raw."""

import os
import subprocess
import sys

import pytest

from hyperfocal.errors import ConfigError, printable
from hyperfocal.storage.run_folder import RunFolder
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
        RunFolder.open(tmp_path / "fit").verify()
