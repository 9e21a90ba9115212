"""Compress bytes as the ending of a name says, each with the function of its library."""

import bz2
import gzip
import sys
from pathlib import Path

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CHECKSUM = {zstd.CompressionParameter.checksum_flag: 1}  # as the program zstd writes it
PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".zst": lambda raw: zstd.compress(raw, options=CHECKSUM)}


def pack(name, raw):
    return PACK.get(Path(name).suffix, bytes)(raw)
