"""The state of a folder: every file, folder and link with its content and mode, taken fast, and written again."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path

FRESH_NS = 50_000_000  # a file changed so shortly ago may change again without a new time
NAMES = (  # parts of names that differ from run to run
    (re.compile(r"(?<=^\.hyperfocal-)\w{8}$|(?<=^\.building-)\w{8}$|(?<=^tmp)\w{8}$|(?<=^\.tmp)\w{6}$"), "RANDOM"),
    (re.compile(r"(?<=\.)\d+(?=[.-])"), "PID"),
    (re.compile(r"[0-9a-f]{16,64}"), "HEX"),
    (re.compile(r"(?<=[-.])[0-9a-f]{8,15}(?=[.-]|$)"), "HEX"),
)


TEMPORARY = re.compile(r"((^|/)\.((hyperfocal|work)-|[0-9a-f]{32}\.)[^/]*).*")


@dataclass(frozen=True)
class Entry:
    """A file ("f"), folder ("d") or link ("l"): mode, and the checksum of the content or the target."""

    kind: str
    mode: int
    content: str


@dataclass(frozen=True)
class State:
    """All entries below a folder, by relative path, and their times, which do not count when states are compared."""

    entries: dict[str, Entry]
    times: dict[str, int] = field(compare=False)

    @property
    def key(self) -> str:
        """Return a checksum: equal states have equal keys."""
        return hashlib.sha256(repr(sorted(self.entries.items())).encode()).hexdigest()

    @property
    def likeness(self) -> str:
        """Return a checksum that ignores what is inside temporary folders: nothing but their writer looks there."""
        inside = {TEMPORARY.sub(r"\1", name): entry for name, entry in self.entries.items()}
        outer = [(name, "" if name.rpartition("/")[2].startswith(".") else entry) for name, entry in inside.items()]
        return hashlib.sha256(repr(sorted(outer, key=str)).encode()).hexdigest()

    def below(self, place: str) -> dict[str, Entry]:
        """Return the entries at and below a relative path, by their paths from there."""
        inside = {name.removeprefix(f"{place}/"): e for name, e in self.entries.items() if name.startswith(f"{place}/")}
        return inside | ({"": self.entries[place]} if place in self.entries else {})

    @property
    def names(self) -> set[str]:
        return {usual(name) for name in self.entries}


def usual(name: str) -> str:
    """Return a name with a placeholder for process ids and random parts."""
    return "/".join(map(_usual_step, name.split("/")))


def _usual_step(name: str) -> str:
    for pattern, placeholder in NAMES:
        name = pattern.sub(placeholder, name)
    return name


class Archive:
    """The contents of files by checksum, and states made of them."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self._known: dict[tuple[int, int, int, int], str] = {}

    def take(self, root: Path) -> State:
        """Return the state of a folder."""
        entries: dict[str, Entry] = {}
        times: dict[str, int] = {}
        self._walk(str(root), "", entries, times)
        return State(entries, times)

    def _walk(self, folder: str, prefix: str, entries: dict[str, Entry], times: dict[str, int]) -> None:
        for item in sorted(os.scandir(folder), key=lambda one: one.name):
            name, facts = prefix + item.name, item.stat(follow_symlinks=False)
            mode = stat.S_IMODE(facts.st_mode)
            times[name] = facts.st_mtime_ns
            if stat.S_ISDIR(facts.st_mode):
                entries[name] = Entry("d", mode, "")
                self._walk(item.path, f"{name}/", entries, times)
            elif stat.S_ISLNK(facts.st_mode):
                entries[name] = Entry("l", mode, str(Path(item.path).readlink()))
            elif stat.S_ISREG(facts.st_mode):
                entries[name] = Entry("f", mode, self._content(item.path, facts))
            else:
                entries[name] = Entry("?", mode, "")

    def _content(self, path: str, facts: os.stat_result) -> str:
        known = (facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
        checksum = self._known.get(known)
        if checksum is None:
            data = Path(path).read_bytes()
            checksum = hashlib.sha256(data).hexdigest()
            self.contents.setdefault(checksum, data)
            if time.time_ns() - max(facts.st_mtime_ns, facts.st_ctime_ns) > FRESH_NS:
                self._known[known] = checksum
        return checksum

    def restore(self, state: State, root: Path) -> None:
        """Write a state to a folder, which is emptied before."""
        if root.exists():
            shutil.rmtree(root)
        root.mkdir(parents=True)
        for name, entry in state.entries.items():
            path = root / name
            if entry.kind == "d":
                path.mkdir()
            elif entry.kind == "l":
                path.symlink_to(entry.content)
            else:
                path.write_bytes(self.contents[entry.content])
                path.chmod(entry.mode)
                os.utime(path, ns=(state.times[name], state.times[name]))
        for name, entry in reversed(state.entries.items()):
            if entry.kind == "d":
                (root / name).chmod(entry.mode)
                os.utime(root / name, ns=(state.times[name], state.times[name]))
