"""Small files that unpack, nest or claim far more than they hold, and a driver that reads them with little memory."""

import bz2
import gzip
import json
import os
import resource
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import polars as pl

from hyperfocal.data.compression import zstd

ADDRESS_SPACE = 4 * 2**30
MEMBER = 2**24  # bytes of a member of a compressed file, which is repeated
PACK = {"gz": gzip.compress, "bz2": bz2.compress, "zst": zstd.compress}


def repeated(unit, size, packed, head=b""):
    """Return a compressed file that unpacks to `head`, then `size` bytes of a unit."""
    pack = PACK[packed]
    return pack(head) + pack(unit * (MEMBER // len(unit))) * (size // MEMBER)


def claiming(rows):
    """Return a Parquet file of few bytes and many equal rows."""
    out = BytesIO()
    frame = pl.DataFrame({"user": pl.repeat("u", rows, eager=True), "item": pl.repeat("i", rows, eager=True)})
    frame.write_parquet(out, compression="zstd", row_group_size=rows)
    return out.getvalue()


def long_texts():
    """Return a Parquet file whose dictionary has one text of a megabyte, for thousands of rows."""
    out = BytesIO()
    texts = ["u" * 2**20] * 4_000
    pl.DataFrame({"user": texts, "item": texts, "order": range(4_000)}).write_parquet(out, compression="zstd")
    return out.getvalue()


GIB = 2**30
EVENT = b'{"user":"u","item":"i","order":'
HEADER = b"user,item,order\n"
LOGS = {
    "zeros.csv.gz": lambda: repeated(b"\0", 5 * GIB, "gz"),
    "zeros.csv.bz2": lambda: repeated(b"\0", 5 * GIB, "bz2"),
    "zeros.csv.zst": lambda: repeated(b"\0", 5 * GIB, "zst"),
    "zeros.jsonl.gz": lambda: repeated(b"\0", 5 * GIB, "gz"),
    "zeros.txt.gz": lambda: repeated(b"\0", 5 * GIB, "gz"),
    "field.csv.gz": lambda: repeated(b"a", 2 * GIB, "gz", HEADER + b'u,"'),
    "zeros-later.csv.zst": lambda: repeated(b"\0", 2 * GIB, "zst", HEADER + b"u,i,"),
    "header.csv.gz": lambda: repeated(b"a,", 2 * GIB, "gz"),
    "word.jsonl.gz": lambda: repeated(b"a", 2 * GIB, "gz", b'{"user":"'),
    "columns.csv": lambda: b",".join(b"c%d" % n for n in range(1_000_000)) + b"\n" + b"1," * 999_999 + b"1\n",
    "short-rows.csv": lambda: HEADER[:-1] + b",c" * 50_000 + b"\n" + b"u\n" * 50_000,
    "commas.csv": lambda: HEADER + b"," * 20_000_000 + b"\n",
    "quotes.csv": lambda: HEADER + b'"' * 20_000_000 + b"\n",
    "delimiters.csv": lambda: b"|;,\t" * 1_000_000 + b"\n",
    "keys.jsonl": lambda: b"".join(b'{"user":"u","item":"i","k%d":1}\n' % n for n in range(40_000)),
    "wide.jsonl": lambda: EVENT + b"1," + b",".join(b'"k%d":1' % n for n in range(500_000)) + b"}\n",
    "nested.jsonl": lambda: b'{"user":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
    "objects.jsonl": lambda: b'{"user":' * 100_000 + b"1" + b"}" * 100_000 + b"\n",
    "open.jsonl": lambda: b'{"user":' + b"[" * 1_000_000,
    "number.jsonl": lambda: EVENT + b"9" * 5_000_000 + b"}\n",
    "exponent.jsonl": lambda: EVENT + b"1e999999999}\n" + EVENT + b"12345678901234567890}\n",
    "rows.parquet": lambda: claiming(200_000_000),
    "texts.parquet": long_texts,
    "extreme.txt": lambda: b"1000000000000 1000000000000 1000000000000\n0 0:1\n",
    "word.txt": lambda: b"u " + b"i" * 20_000_000 + b"\n",
    "huge.inter": lambda: b"user_id:token\titem_id:token\ttimestamp:float\nu\ti\t" + b"9" * 1_000_000 + b"\n",
    "ratings.dat": lambda: b"9" * 1_000_000 + b"::1::5::99999999999999999999\n",
}
LARGE = {  # these take long to make or to read
    "field.csv": lambda: HEADER + b'u,"' + b"a" * 300_000_000 + b'",1\n',
    "line.jsonl": lambda: EVENT[:-9] + b'"' + b"x" * 300_000_000 + b'"}\n',
    "rows.csv.gz": lambda: repeated(b"u,i,1\n", 2 * GIB, "gz", HEADER),
    "lines.csv.gz": lambda: repeated(b"\n", 2 * GIB, "gz", HEADER),
    "rows.jsonl.gz": lambda: repeated(b"{}\n", 2 * GIB, "gz"),
    "lines.txt.gz": lambda: repeated(b"u i\n", 2 * GIB, "gz"),
    "lines.txt.zst": lambda: repeated(b"u i\n", 2 * GIB, "zst"),
}
RECIPES = {
    "nested.toml": lambda: b"seed = " + b"[" * 100_000,
    "tables.toml": lambda: b"[" + b"a." * 100_000 + b"a]\n",
    "number.toml": lambda: b"seed = " + b"9" * 100_000,
    "hexadecimal.toml": lambda: b"seed = 0x" + b"f" * 1_000_000,
    "long.toml": lambda: b"#" * 50_000_000,
    "keys.toml": lambda: b"".join(b"k%d = 1\n" % n for n in range(100_000)),
    "text.toml": lambda: b'[data]\nuser = "' + b"u" * 3_000_000 + b'"\n',
    "grid.toml": lambda: b"[grid]\nseeds = 1" + b"0" * 400 + b"\n",
}


def run_limited(commands, *, timeout=580):
    """Run commands one after another in one process with 4 GiB of address space; return their exit codes.

    A signal, a traceback or a hang ends the process: then the codes are fewer than the commands, and the last text is
    that of stderr.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps([[str(word) for word in command] for command in commands]),
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        env=environment,
    )
    codes = [int(line.removeprefix("code ")) for line in ended.stdout.splitlines() if line.startswith("code ")]
    return codes, f"exit code {ended.returncode}\n{ended.stderr[-3_000:]}"


def _drive():
    from hyperfocal.cli import main

    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    for command in json.load(sys.stdin):
        try:
            main(command)
        except SystemExit as ended:
            print(f"\ncode {ended.code or 0}", flush=True)


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parent))
    _drive()
