"""Ctrl-C ends a command even where a library swallows the exception."""

import signal
import subprocess
import sys

from hyperfocal.interrupts import came, remembered

SWALLOWING = """
import signal, sys
from hyperfocal.cli.main import main
from hyperfocal.training import trainer

make = trainer._make_optimizers

def swallow(job):
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        pass
    return make(job)

signal.signal(signal.SIGINT, signal.default_int_handler)
trainer._make_optimizers = swallow
main(sys.argv[1:])
"""


def test_a_swallowed_ctrl_c_ends_the_training(tmp_path):
    data, out = tmp_path / "train.csv", tmp_path / "run"
    data.write_text("text,labels\n" + "red wine,wine\ndark beer,beer\n" * 20)
    settings = [f"--set={each}" for each in ("features.kind=ngrams", "train.epochs=100000", "train.threads=1")]
    command = [sys.executable, "-c", SWALLOWING, "classify", "fit", data, "--out", out, *settings]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 130, ended.stderr
    assert ended.stderr.rstrip().endswith(f"stopped. The same command with --resume continues the run in {out}.")


def test_it_is_forgotten_at_the_end():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with remembered():
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                assert came()
        assert not came()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_ignored_ctrl_c_stays_ignored():
    """As in a command that a shell has put into the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with remembered():
            signal.raise_signal(signal.SIGINT)
        assert not came()
    finally:
        signal.signal(signal.SIGINT, before)
