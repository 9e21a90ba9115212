"""Compress and unpack bytes as the ending of a name says, with the functions of the libraries."""

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
UNPACK = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".zst": zstd.decompress}


def pack(name, raw):
    return PACK.get(Path(name).suffix, bytes)(raw)


def unpack(name, raw):
    return UNPACK.get(Path(name).suffix, bytes)(raw)
