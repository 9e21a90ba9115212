"""Entries with real folders: damaged in every byte, of other users, and wanted by several processes at once."""

import json
import logging
import os
import resource
import shutil
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from hyperfocal.storage.entries import INDEX, cached
from user_cases import OTHER, another_user, give, needs_root, public_folder

ARRAYS = {
    "values": np.arange(6, dtype=np.float32).reshape(2, 3),
    "indptr": np.array([0, 2**40], dtype=np.int64),
    "empty": np.zeros((0, 4), dtype=np.float32),
    "name-with.dots": np.array([True, False]),
}


def never():
    raise AssertionError("it is in the cache")


def same(found, expected) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == expected[name].dtype and np.array_equal(found[name], expected[name]) for name in expected
    )


class TestCached:
    def test_made_once_and_read_afterwards(self, tmp_path):
        made = []
        for _ in range(3):
            assert same(cached(tmp_path / "new" / "cache", "key", lambda: made.append(1) or ARRAYS), ARRAYS)
        assert made == [1]
        assert same(cached(tmp_path / "new" / "cache", "key", never), ARRAYS)

    def test_another_key_is_another_entry(self, tmp_path):
        for number in range(3):
            cached(tmp_path, f"key {number}", lambda number=number: {"x": np.array([number])})
        assert [cached(tmp_path, f"key {number}", never)["x"].tolist() for number in range(3)] == [[0], [1], [2]]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["key 0", "key 1", "key 2"]  # nothing left aside

    def test_without_a_folder_nothing_is_kept(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        made = []
        for _ in range(2):
            assert cached(None, "key", lambda: made.append(1) or ARRAYS) is ARRAYS
        assert (made, list(tmp_path.iterdir())) == ([1, 1], [])

    def test_they_are_mapped_and_may_be_written_to_without_harm(self, tmp_path):
        """torch.from_numpy wants arrays that can be written; what is written stays in this process."""
        cached(tmp_path, "key", lambda: ARRAYS)
        found = cached(tmp_path, "key", never)
        assert all(isinstance(array, np.memmap) and array.flags.writeable for array in found.values())
        found["values"][:] = -1
        assert same(cached(tmp_path, "key", never), ARRAYS)

    def test_an_error_in_making_them_is_its_own_and_leaves_nothing(self, tmp_path):
        with pytest.raises(ZeroDivisionError):
            cached(tmp_path, "key", lambda: {"x": np.ones(1 // 0)})
        assert same(cached(tmp_path, "key", lambda: ARRAYS), ARRAYS)

    def test_objects_are_refused(self, tmp_path):
        """They would be pickled, and a pickle runs code when it is read."""
        with pytest.raises(ValueError, match="Object arrays cannot be saved"):
            cached(tmp_path, "key", lambda: {"x": np.array([{}], dtype=object)})
        assert not list(tmp_path.iterdir())


@pytest.fixture
def entry(tmp_path):
    """Return the folder of an entry with ARRAYS, under the key "key"."""
    cached(tmp_path / "cache", "key", lambda: ARRAYS)
    return tmp_path / "cache" / "key"


def made_again(entry: Path, caplog) -> str:
    """Ask for a damaged entry, check that it is made once, whole and alone in the cache; return the warning."""
    caplog.clear()
    made = []
    for _ in range(2):
        assert same(cached(entry.parent, entry.name, lambda: made.append(1) or ARRAYS), ARRAYS)
    assert made == [1]
    assert [path.name for path in entry.parent.iterdir()] == [entry.name]
    assert {path.name for path in entry.iterdir()} == {INDEX, *(f"{name}.npy" for name in ARRAYS)}
    return "\n".join(record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)


class TestDamaged:
    """Each is made again, with one warning, and never used."""

    def test_any_byte_of_any_file(self, entry, caplog):
        """A bit of each byte is flipped: of header, numbers, names, sizes and checksums."""
        tried = 0
        for name in (INDEX, "values.npy"):
            for place in range((entry / name).stat().st_size):
                path = entry / name
                content = bytearray(path.read_bytes())
                content[place] ^= 1 << (place % 8)
                path.write_bytes(content)
                assert f"cache {entry}: is damaged and made again (" in made_again(entry, caplog)
                tried += 1
        assert tried > 300

    def test_cut_after_any_byte(self, entry, caplog):
        for name in (INDEX, "values.npy"):
            for size in range((entry / name).stat().st_size):
                os.truncate(entry / name, size)
                assert "is damaged" in made_again(entry, caplog)

    @pytest.mark.parametrize("more", [b"\0", b"\n", bytes(4096)])
    def test_longer(self, entry, caplog, more):
        for name in sorted(path.name for path in entry.iterdir()):
            with (entry / name).open("ab") as file:
                file.write(more)
            assert "is damaged" in made_again(entry, caplog)

    @pytest.mark.parametrize(
        "content",
        [
            np.full((2, 3), np.nan, dtype=np.float32),
            np.zeros((2, 3), dtype=np.float32),
            np.arange(6, dtype=np.float32).reshape(3, 2),
            np.arange(6, dtype=np.int32).reshape(2, 3),
            np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        ],
        ids=["nan", "zeros", "shape", "dtype", "order"],
    )
    def test_other_numbers(self, entry, caplog, content):
        np.save(entry / "values.npy", content)
        assert "values.npy has another checksum" in made_again(entry, caplog)

    @pytest.mark.parametrize("content", [b"not numpy's format", b"\x93NUMPY\x01\x00\x03\x00{}\n", b"\x80\x04N."])
    def test_a_file_of_something_else(self, entry, caplog, content):
        (entry / "values.npy").write_bytes(content)
        assert f"values.npy has {len(content)} bytes, not 152" in made_again(entry, caplog)

    @pytest.mark.parametrize("name", ARRAYS)
    def test_a_file_that_is_missing(self, entry, caplog, name):
        (entry / f"{name}.npy").unlink()
        assert "No such file" in made_again(entry, caplog)

    @pytest.mark.parametrize("content", ["", "[]", '["values"]', "{", '{"key": "key", "arrays": {}}', "null\nnull"])
    def test_another_index(self, entry, caplog, content):
        (entry / INDEX).write_text(content)
        assert f"{INDEX} has another checksum" in made_again(entry, caplog)

    def test_the_entry_of_another_key(self, entry, caplog):
        cached(entry.parent, "other", lambda: {"other": np.ones(1)})
        shutil.rmtree(entry)
        entry.with_name("other").rename(entry)
        assert f"{INDEX} has another key" in made_again(entry, caplog)

    def test_files_of_one_array_for_another(self, entry, caplog):
        shutil.copy(entry / "values.npy", entry / "indptr.npy")
        assert "indptr.npy has 152 bytes, not 144" in made_again(entry, caplog)

    @pytest.mark.parametrize("others", [[], ["values"], list(ARRAYS)])
    def test_a_rest_of_a_removed_entry_is_replaced_without_a_word(self, entry, caplog, others):
        """As an entry that was removed in part, or one of an earlier version, which had no index of this name."""
        (entry / "arrays.json").write_text(json.dumps(list(ARRAYS)))
        for name in (INDEX, *(f"{name}.npy" for name in others)):
            (entry / name).unlink()
        assert made_again(entry, caplog) == ""

    def test_an_array_that_is_not_listed_is_not_read(self, entry):
        np.save(entry / "mine.npy", np.ones(3))
        assert same(cached(entry.parent, "key", never), ARRAYS)

    def test_links_and_pipes_in_place_of_files(self, entry, caplog):
        """They would lead elsewhere, or be waited for."""
        for kind in ("link", "pipe", "folder"):
            for name in ("values.npy", INDEX):
                path, aside = entry / name, entry.parent.parent / name
                path.rename(aside)
                if kind == "link":
                    path.symlink_to(aside)
                elif kind == "pipe":
                    os.mkfifo(path)
                else:
                    path.mkdir()
                assert f"{name} is " in made_again(entry, caplog)

    def test_a_link_in_place_of_the_entry_is_neither_followed_nor_removed(self, entry, tmp_path):
        entry.rename(tmp_path / "elsewhere")
        entry.symlink_to(tmp_path / "elsewhere")
        assert list(cached(entry.parent, "key", lambda: {"new": np.ones(1)})) == ["new"]
        assert entry.is_symlink()
        assert len(list((tmp_path / "elsewhere").iterdir())) == 5

    def test_what_is_mapped_stays_as_it_is(self, entry, caplog):
        """A file is never changed in place: this would change, or end with SIGBUS, the processes that map it."""
        mapped = cached(entry.parent, "key", never)
        path = entry / "values.npy"
        content = bytearray(path.read_bytes())
        path.unlink()  # damaged by a new file under the old name
        path.write_bytes(content[:-1] + b"x")
        assert "is damaged" in made_again(entry, caplog)
        assert same(mapped, ARRAYS)

    def test_too_many_open_files_are_no_damage(self, entry, caplog):
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        inode = entry.stat().st_ino
        for spare in range(2, 8):
            used = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + spare, before[1]))
            try:
                assert same(cached(entry.parent, "key", lambda: ARRAYS), ARRAYS)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert entry.stat().st_ino == inode
        assert "damaged" not in caplog.text


class TestOthers:
    """What another user can change is not used."""

    @needs_root
    @pytest.mark.parametrize("name", ["", INDEX, "values.npy"])
    def test_an_entry_or_a_file_of_another_user(self, entry, caplog, name):
        os.chown(entry / name, OTHER, OTHER)
        assert f"belongs to another user, uid {OTHER}" in made_again(entry, caplog)

    @pytest.mark.parametrize(("name", "mode"), [("", 0o777), (INDEX, 0o666), ("values.npy", 0o602)])
    def test_an_entry_or_a_file_that_all_can_write(self, entry, caplog, name, mode):
        (entry / name).chmod(mode)
        assert f"mode {mode:04o}" in made_again(entry, caplog)

    @needs_root
    def test_a_cache_of_another_user(self, entry, caplog):
        """Root under sudo with HOME unchanged: what the user planted is not read, and nothing is written there."""
        give(entry.parent)
        before = sorted(entry.parent.rglob("*"))
        for _ in range(2):
            assert list(cached(entry.parent, "key", lambda: {"mine": np.ones(1)})) == ["mine"]
        assert sorted(entry.parent.rglob("*")) == before
        assert [record.getMessage() for record in caplog.records] == [
            f"cache {entry.parent}: is not used (it belongs to another user, uid {OTHER}). Mend that, or name another "
            "folder with the variable HYPERFOCAL_CACHE"
        ]

    @pytest.mark.parametrize("mode", [0o777, 0o1777])
    def test_a_cache_that_all_can_write(self, entry, mode):
        entry.parent.chmod(mode)
        assert list(cached(entry.parent, "key", lambda: {"mine": np.ones(1)})) == ["mine"]
        entry.parent.chmod(0o700)
        assert same(cached(entry.parent, "key", never), ARRAYS)

    @needs_root
    def test_a_cache_of_root_is_read_but_not_written(self, caplog):
        with public_folder() as place:
            cached(place, "key", lambda: ARRAYS)
            for path in place.rglob("*"):
                path.chmod(0o755 if path.is_dir() else 0o644)
            with another_user():
                assert same(cached(place, "key", never), ARRAYS)
                assert list(cached(place, "other", lambda: {"mine": np.ones(1)})) == ["mine"]
            assert "is not used (Permission denied)" in caplog.text
            assert [path.name for path in place.iterdir()] == ["key"]

    def test_entries_are_private_whatever_the_umask(self, tmp_path):
        before = os.umask(0)
        try:
            cached(tmp_path / "cache", "key", lambda: ARRAYS)
        finally:
            os.umask(before)
        modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "cache").rglob("*") if path.is_file()}
        folders = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("cache", "cache/key")]
        assert (modes, folders) == ({0o600}, [0o700, 0o700])

    def test_no_file_is_opened_for_change(self, tmp_path):
        """Every file that is written in a cache is a new one, in all of making, reading, damage and replacement."""
        code = """
import os, sys
from pathlib import Path
opened = []
def look(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        opened.append((arguments[0], arguments[2]))
    elif event in ("os.truncate", "shutil.copyfile"):
        raise AssertionError(event)
import numpy as np
from hyperfocal.storage.entries import cached
place = Path(sys.argv[1])
sys.addaudithook(look)
cached(place, "key", lambda: {"a": np.ones(9)})
cached(place, "key", lambda: 1 / 0)
(place / "key" / "a.npy").rename(place / "key" / "b.npy")
cached(place, "key", lambda: {"a": np.ones(9)})
assert all(flags & os.O_EXCL or name == ".lock" for name, flags in opened), opened
print(sorted({name for name, flags in opened}))
"""
        ended = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
        assert ended.stdout == "['.lock', 'a.npy', 'entry.json']\n"


class TestCannotBeWritten:
    @pytest.mark.parametrize("place", ["file", "file/cache", "dangling/cache"])
    def test_no_folder_can_be_there(self, tmp_path, caplog, place):
        (tmp_path / "file").write_text("x")
        (tmp_path / "dangling").symlink_to(tmp_path / "file" / "nowhere")
        for _ in range(2):
            assert cached(tmp_path / place, "key", lambda: ARRAYS) is ARRAYS
        (warning,) = [record.getMessage() for record in caplog.records]
        assert warning.startswith(f"cache {tmp_path / place}: is not used (")
        assert warning.endswith("name another folder with the variable HYPERFOCAL_CACHE")

    def test_a_file_stands_where_the_arrays_go(self, tmp_path):
        (tmp_path / "key").write_text("mine")
        assert cached(tmp_path, "key", lambda: ARRAYS) is ARRAYS
        assert (tmp_path / "key").read_text() == "mine"
        assert len(list(tmp_path.iterdir())) == 1

    def test_no_space_left(self, tmp_path):
        """A process may write files of 100 kB at most: the first array fits, the second does not."""
        assert ask(tmp_path, "1", "1000000", limit=100_000) == (0, "made 1\nread 1\n")
        assert not list(tmp_path.iterdir())  # no half of an entry, which would be taken for a whole one
        assert ask(tmp_path, "1", "1000000") == (0, "made 1\nread 1\n")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_folder_without_permission(self, tmp_path):
        tmp_path.chmod(0o500)
        assert cached(tmp_path, "key", lambda: ARRAYS) is ARRAYS


class TestAtOnce:
    def test_processes(self, tmp_path):
        """All make, for none is there when they look; the arrays of the first to finish are everybody's."""
        (tmp_path / "cache").mkdir()
        processes = [start(tmp_path / "cache", str(number), "200000", tmp_path / "go") for number in range(4)]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        (tmp_path / "go").touch()
        outputs = [process.communicate(timeout=60)[0].split() for process in processes]
        assert [process.returncode for process in processes] == [0] * 4
        assert [words[:3] for words in outputs] == [["made", str(number), "read"] for number in range(4)]
        assert len({words[3] for words in outputs}) == 1
        assert [path.name for path in (tmp_path / "cache").iterdir()] == ["key"]

    def test_threads(self, tmp_path):
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda number: slow(tmp_path, number), range(8)))
        assert len({int(arrays["a"][0]) for arrays in found}) == 1
        assert all((arrays["a"] == arrays["a"][0]).all() and same(arrays, found[0]) for arrays in found)

    def test_killed_before_any_change_of_a_file(self, tmp_path):
        """The next process finds a whole entry or none, and leaves nothing else behind."""
        ended = subprocess.run([sys.executable, "-c", KILLS, tmp_path], capture_output=True, text=True, timeout=120)
        assert ended.returncode == 0, ended.stderr
        assert int(ended.stdout) > 40  # kills: of making an entry, and of making a damaged one again

    def test_readers_while_it_is_damaged_and_made_again(self, tmp_path):
        """Five processes read an entry that this one damages again and again: each gets the right numbers."""
        code = """
import sys
from pathlib import Path
import numpy as np
from hyperfocal.storage.entries import cached
for number in range(150):
    arrays = cached(Path(sys.argv[1]), "key", lambda: {"a": np.arange(1_000), "b": np.arange(9)})
    assert arrays["a"].sum() == 499_500 and arrays["b"].sum() == 36
print("done")
"""
        processes = [
            subprocess.Popen([sys.executable, "-c", code, tmp_path / "cache"], stdout=subprocess.PIPE, text=True)
            for _ in range(5)
        ]
        damaged = 0
        try:
            while any(process.poll() is None for process in processes):
                time.sleep(0.005)
                try:
                    path = tmp_path / "cache" / "key" / "a.npy"
                    (tmp_path / "damaged").write_bytes(path.read_bytes()[:-1] + b"x")
                    (tmp_path / "damaged").replace(path)
                    damaged += 1
                except OSError:  # it is being made
                    continue
            outputs = [process.communicate(timeout=60)[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert outputs == ["done\n"] * 5
        assert damaged > 5
        assert same(cached(tmp_path / "cache", "last", lambda: ARRAYS), ARRAYS)
        assert {path.name for path in (tmp_path / "cache").iterdir()} <= {"key", "last"}


def slow(folder: Path, number: int):
    def make():
        time.sleep(0.05)
        return {name: np.full(1_000, number) for name in "abc"}

    return cached(folder, "key", make)


KILLS = """
import itertools, os, signal, sys
from pathlib import Path
import numpy as np
from hyperfocal.storage.entries import cached, logger

def fill(place, number):
    return cached(place, "key", lambda: {"a": np.full(3, number), "b": np.full(10, number)})

def is_killed(place, last):
    child = os.fork()
    if not child:
        count = itertools.count(1)
        def look(event, _):
            if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "fcntl.flock"):
                if next(count) == last:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(look)
        fill(place, 1)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])

logger.disabled = True
kills = 0
for damaged in (False, True):
    for last in range(1, 200):
        place = Path(sys.argv[1], f"{damaged}-{last}")
        place.mkdir(0o700)
        if damaged:
            fill(place, 0)
            (place / "key" / "a.npy").unlink()
        if not is_killed(place, last):
            break
        kills += 1
        assert len(list(place.iterdir())) <= 2, "more than an entry and a work folder"
        arrays = fill(place, 2)
        assert arrays["a"][0] in (1, 2) and (arrays["b"] == arrays["a"][0]).all()
        assert [path.name for path in place.iterdir()] == ["key"]
print(kills)
"""


PROGRAM = """  # asks for arrays full of a number, the second of a length, once a file exists
import sys, time
from pathlib import Path
import numpy as np
from hyperfocal.storage.entries import cached

folder, number, length, *go = sys.argv[1:]

def make():
    if go:
        print("ready", flush=True)
        deadline = time.monotonic() + 60
        while not Path(go[0]).exists() and time.monotonic() < deadline:
            time.sleep(0.001)
    print("made", number, flush=True)
    return {"a": np.full(3, int(number)), "b": np.full(int(length), int(number))}

arrays = cached(Path(folder), "key", make)
assert (arrays["b"] == arrays["a"][0]).all(), "arrays of two processes were mixed"
print("read", int(arrays["a"][0]))
"""


def start(folder: Path, *arguments: object, limit: int = 0) -> subprocess.Popen:
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(folder), *map(str, arguments)]

    def shorten() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1, preexec_fn=shorten)


def ask(folder: Path, *arguments: object, limit: int = 0) -> tuple[int, str]:
    process = start(folder, *arguments, limit=limit)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output
