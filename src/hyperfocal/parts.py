"""The files that a path names: a file, a folder of Parquet parts, or a pattern of such parts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from glob import has_magic, iglob
from pathlib import Path
from stat import S_IFBLK, S_IFCHR, S_IFIFO, S_IFMT, S_IFSOCK

SUFFIX, MAGIC = ".parquet", b"PAR1"


def files_of(path: Path) -> list[Path]:
    """Return the parts of a folder or of a pattern such as `logs/*.parquet`, or the file itself; [] if there is none.

    Parts are in the order of their names, part.2 before part.10, each once, also if a pattern names a folder and the
    files in it. Names that begin with a dot or an underscore are skipped. A file with this very name is not a pattern.
    """
    if path.is_file():
        return [path]
    roots = [path] if path.is_dir() else _matches(path)
    files = [file for root in roots for file in ([root] if root.is_file() else _files_below(root)) if _is_part(file)]
    distinct: dict[Path, Path] = {}
    for file in files:
        distinct.setdefault(file.resolve(), file)
    return [*distinct.values()]


def total_size(path: Path) -> int:
    """Return the bytes of a file, or of all parts of a folder or a pattern; 0 if there is none."""
    return sum(part.stat().st_size for part in files_of(path))


def special(path: Path) -> str:
    """Return "a pipe", "a device" or "a socket" if a path names one, or "" for a file, a folder or nothing.

    Such a path is not opened: a pipe may wait forever, and a device may never end.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # ValueError: a name with NUL
        return ""
    kinds = {S_IFIFO: "a pipe", S_IFCHR: "a device", S_IFBLK: "a device", S_IFSOCK: "a socket"}
    return kinds.get(S_IFMT(mode), "")


def covers(path: Path, target: Path) -> bool:
    """Return whether a folder or a pattern names a file that does not exist yet, or a folder that would hold it."""
    base = path.resolve() if path.is_dir() else _base(path).resolve()
    if path.is_file() or base not in target.resolve().parents:
        return False
    names = target.resolve().relative_to(base).parts
    patterns = () if path.is_dir() else path.parts[len(_base(path).parts) :]
    return any(_fits(names[:end], patterns) for end in range(len(names) + 1))


def _matches(pattern: Path) -> list[Path]:
    """Return what a pattern matches, without hidden names unless a name of the pattern begins as they do."""
    matches = map(Path, iglob(str(pattern), recursive=True))  # noqa: PTH207 - takes any pattern, absolute ones too
    base = _base(pattern)
    hidden = any(map(_is_hidden, pattern.relative_to(base).parts))
    shown = (path for path in matches if hidden or not any(map(_is_hidden, path.relative_to(base).parts)))
    return sorted(shown, key=_natural)


def _base(pattern: Path) -> Path:
    """Return the path before the first part of a pattern with a wildcard; of a plain path its folder."""
    plain = next((place for place, name in enumerate(pattern.parts) if has_magic(name)), len(pattern.parts) - 1)
    return Path(*pattern.parts[:plain])


def _fits(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Return whether the names of a path fit the patterns; `**` stands for any number of names."""
    if not patterns:
        return not names
    if patterns[0] == "**":
        return any(_fits(names[start:], patterns[1:]) for start in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], patterns[0]) and _fits(names[1:], patterns[1:])


def _files_below(folder: Path) -> list[Path]:
    """Return the files of a folder and its subfolders, without hidden folders."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted((path for path in files if not any(map(_is_hidden, path.relative_to(folder).parts))), key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a key that sorts part.2 before part.10."""
    pieces = re.findall(r"\d+|\D+", str(path))
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in pieces]


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def _is_part(path: Path) -> bool:
    if _is_hidden(path.name):
        return False
    if path.suffix.lower() == SUFFIX:
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:  # not allowed to read it
        return False
