"""Recognize files that are not tables by their first bytes, and name their format."""

from __future__ import annotations

import re

from hyperfocal.data.compression import compression_of

HEAD_BYTES = 512  # that the expressions below need
UNPACK, EXPORT = "Unpack it", "Export it as CSV, JSON lines or Parquet"
SIGNATURES = (
    (rb"PK\x03\x04.{26}(\[Content_Types\]|_rels/|docProps/|xl/)", "an Excel workbook", "Save the sheet as CSV"),
    (rb"PK[\x03\x05]", "a zip archive", UNPACK),
    (rb"\xd0\xcf\x11\xe0", "an old Excel workbook", "Save the sheet as CSV"),
    (rb"PAR1\x15", "a Parquet file", "Rename it to .parquet"),
    (rb"ARROW1\x00|\xff\xff\xff\xff", "an Arrow file", "Write it as Parquet"),
    (rb"\xfd7zXZ\x00", "an xz file", "Unpack it, or compress it with gzip, bzip2 or zstd"),
    (rb"7z\xbc\xaf", "a 7z archive", UNPACK),
    (rb".{257}ustar[\x00 ]", "a tar archive", UNPACK),
    (rb"SQLite format 3\x00", "an SQLite database", EXPORT),
    (rb"\x89HDF|\x93NUMPY|\x80[\x02-\x05][\x8c\x95c]", "an HDF5, NumPy or pickle file", EXPORT),
    (rb"%PDF-", "a PDF document", EXPORT),
    (rb"version https://git-lfs", "a Git LFS pointer, not the file itself", "Run `git lfs pull`"),
)
PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|head|\?xml)", re.IGNORECASE)


def foreign_format(head: bytes, kind: str) -> tuple[str, str]:
    r"""Return the format of a file and the fix, or ("", "") if its first bytes fit its kind.

    A text file may begin with HTML, because its texts may be web pages.

    >>> foreign_format(b"%PDF-1.7\n", "csv")
    ('a PDF document', 'Export it as CSV, JSON lines or Parquet')
    """
    if kind == "parquet" and head.startswith(b"PAR1"):
        return "", ""
    if compression_of(head):  # text is unpacked already
        return ("a compressed file", UNPACK) if kind == "parquet" else ("compressed twice", "Unpack it once")
    for signature, name, advice in SIGNATURES:
        if re.match(signature, head, re.DOTALL):
            return name, advice
    if kind in ("csv", "jsonl") and PAGE.match(head):
        return "a web page or XML, such as the message of a failed download", "Download the file itself"
    if kind != "parquet" and b"\0" in head.partition(b"\n")[0]:
        return "a binary file, or UTF-16 text without a byte order mark", "Save it as UTF-8"
    return "", ""
