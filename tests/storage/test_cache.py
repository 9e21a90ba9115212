"""Vectors of texts, arrays made through files, keys and the default folder of the cache, with real folders."""

import gc
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.data.stored_texts import hash_texts
from hyperfocal.errors import RunError
from hyperfocal.machine import default_cache
from hyperfocal.private.folders import VARIABLE
from hyperfocal.private.work import process_folder
from hyperfocal.storage.cache import (
    cached_streamed,
    cached_vectors,
    digest_texts,
    hash_of,
    key_of,
    map_blocks,
    map_file,
)
from hyperfocal.storage.entries import INDEX
from user_cases import OTHER, give, needs_root

quick = settings(deadline=None, max_examples=60)


class TestVectors:
    """A text of n letters has the vector (n, letter's number, 0.5)."""

    @staticmethod
    def asked(folder: Path | None, *texts: str) -> list[str]:
        """Ask for the vectors of texts, check them, and return the texts whose vectors were made now."""
        made = []

        def make(rows):
            made.extend(texts[row] for row in rows)
            return np.array([vector(texts[row]) for row in rows], dtype=np.float32).reshape(-1, 3)

        found = cached_vectors(folder, digest_texts(pl.Series("x", texts, dtype=pl.String)), make)
        assert (found.shape, found.dtype) == ((len(texts), 3), np.float32)
        assert found.tolist() == [vector(text) for text in texts]
        return sorted(made)

    def test_only_texts_that_no_other_set_has_are_made(self, tmp_path):
        folder = tmp_path / "cache"
        assert self.asked(folder, "b", "aa", "c") == ["aa", "b", "c"]
        assert self.asked(folder, "b", "aa", "c") == []  # this very set
        assert self.asked(folder, "c", "b") == []  # a part of it in another order
        assert self.asked(folder, "c", "dd", "aa", "") == ["", "dd"]
        assert self.asked(folder, "", "b", "dd", "e", "c") == ["e"]  # from both

    def test_a_text_that_occurs_again_is_made_once(self, tmp_path):
        assert self.asked(tmp_path, "b", "aa", "b", "b", "aa") == ["aa", "b"]
        assert self.asked(tmp_path, "aa", "aa", "c", "c") == ["c"]
        assert self.asked(None, "b", "c", "b") == ["b", "c"]

    def test_without_a_folder_nothing_is_kept(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert [self.asked(None, "a"), self.asked(None, "a"), list(tmp_path.iterdir())] == [["a"], ["a"], []]

    def test_no_texts(self, tmp_path):
        assert [self.asked(folder) for folder in (None, tmp_path, tmp_path)] == [[], [], []]
        assert self.asked(tmp_path, "a") == ["a"]

    def test_another_folder_is_another_way_of_making_them(self, tmp_path):
        assert self.asked(tmp_path / "one", "a") == self.asked(tmp_path / "two", "a") == ["a"]

    @pytest.mark.parametrize("damage", ["vectors.npy", "digests.npy", INDEX])
    @pytest.mark.parametrize("size", [None, 0, 130])
    def test_a_damaged_set_is_not_used(self, tmp_path, damage, size):
        """It is missing, empty or cut; the other whole one is used."""
        self.asked(tmp_path, "a", "b", "c")
        (place,) = tmp_path.iterdir()
        self.asked(tmp_path, "d")
        whole = (place / damage).read_bytes()
        (place / damage).unlink()
        if size is not None:
            (place / damage).write_bytes(whole[: min(size, len(whole) - 1)])
        assert self.asked(tmp_path, "d", "b", "e") == ["b", "e"]

    def test_what_another_process_is_writing_is_not_used(self, tmp_path):
        self.asked(tmp_path, "a", "b")
        (place,) = tmp_path.iterdir()
        place.rename(place.with_name(f".aside.{place.name}"))
        assert self.asked(tmp_path, "a") == ["a"]

    @quick
    @given(st.lists(st.lists(st.text("ab", max_size=2), max_size=5), max_size=4))
    def test_any_sets_one_after_another(self, tmp_path_factory, sets):
        folder, known = tmp_path_factory.mktemp("cache"), set()
        for texts in sets:
            assert self.asked(folder, *texts) == sorted(set(texts) - known)
            known |= set(texts)


def vector(text: str) -> list[float]:
    return [len(text), ord(text[0]) if text else 0, 0.5]


class TestHashes:
    @quick
    @given(st.lists(st.text(max_size=3), max_size=4), st.lists(st.text(max_size=3), max_size=4))
    def test_texts_have_one_hash_if_they_are_the_same(self, one, other):
        hashes = [hash_texts(pl.Series("x", rows, dtype=pl.String)) for rows in (one, other)]
        assert (hashes[0] == hashes[1]) == (one == other)

    def test_where_one_text_ends_counts(self):
        rows = [["ab", "c"], ["a", "bc"], ["abc"], ["abc", ""], ["", "abc"], ["c", "ab"], []]
        assert len({hash_texts(pl.Series("x", texts, dtype=pl.String)) for texts in rows}) == len(rows)

    @quick
    @given(st.lists(st.text(max_size=3), max_size=6))
    def test_each_text_has_a_digest_of_its_own(self, rows):
        digests = digest_texts(pl.Series("x", rows, dtype=pl.String))
        assert (digests.shape, digests.dtype) == ((len(rows),), np.dtype("S16"))
        assert [rows.index(text) for text in rows] == [digests.tolist().index(digest) for digest in digests.tolist()]

    def test_the_order_of_a_dictionary_does_not_count(self):
        assert hash_of({"a": 1, "b": [2.5, None]}, "x") == hash_of({"b": [2.5, None], "a": 1}, "x")

    def test_what_counts(self):
        values = [(), (1,), ("1",), ([1],), (1, 2), (2, 1), (12,), ({"a": 1},), (1.0,), (True,), (None,)]
        assert len({hash_of(*value) for value in values}) == len(values)

    def test_a_hash_is_the_same_in_every_process(self):
        """Python's own hash of a text is not."""
        code = "from hyperfocal.storage.cache import *; import polars; "
        code += "from hyperfocal.data.stored_texts import hash_texts; "
        code += "print(hash_of('a', 1), hash_texts(polars.Series(['b'])))"
        outputs = {
            subprocess.run(
                [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
            ).stdout.decode()
            for seed in ("1", "2")
        }
        assert outputs == {f"{hash_of('a', 1)} {hash_texts(pl.Series(['b']))}\n"}


class TestDefaultFolder:
    @pytest.fixture(autouse=True)
    def variables(self, monkeypatch, tmp_path):
        for name in (VARIABLE, "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))

    def test_the_variables(self, monkeypatch, tmp_path):
        assert default_cache() == tmp_path / ".cache" / "hyperfocal"
        monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # is ignored, as the specification says
        assert default_cache() == tmp_path / ".cache" / "hyperfocal"
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert default_cache() == tmp_path / "xdg" / "hyperfocal"
        monkeypatch.setenv(VARIABLE, "")
        assert default_cache() == tmp_path / "xdg" / "hyperfocal"
        monkeypatch.setenv(VARIABLE, str(tmp_path / "elsewhere"))
        assert default_cache() == tmp_path / "elsewhere"

    @needs_root
    def test_under_sudo_with_home_unchanged(self, tmp_path, caplog):
        """Root uses a temporary folder, and makes none in the home of the user."""
        give(tmp_path)
        folder = default_cache()
        assert folder == default_cache() == process_folder()
        assert list(tmp_path.iterdir()) == []
        assert [record.getMessage() for record in caplog.records] == [
            f"cache {tmp_path}/.cache/hyperfocal: is not used (the folder {tmp_path} belongs to another user, uid "
            f"{OTHER}). Mend that, or name another folder with the variable HYPERFOCAL_CACHE"
        ]


class TestStreamed:
    """Arrays made through files: in the cache, or in a temporary folder if the cache cannot be used."""

    @staticmethod
    def make(work: Path) -> dict[str, np.ndarray]:
        blocks = ({"numbers": np.arange(start, start + 1_000), "none": np.empty(0)} for start in range(0, 3_000, 1_000))
        return map_blocks(blocks, work)

    def check(self, arrays) -> None:
        """Read the numbers from memory, and from the file that they are mapped from."""
        numbers = arrays["numbers"]
        assert numbers.tolist() == list(range(3_000))
        assert arrays["none"].tolist() == []
        with Path(numbers.filename).open("rb") as file:
            file.seek(numbers.offset)
            assert file.read() == numbers.tobytes()

    def test_made_once_and_nothing_else_is_left(self, tmp_path):
        for _ in range(2):
            self.check(cached_streamed(tmp_path / "cache", "key", self.make))
        self.check(cached_streamed(tmp_path / "cache", "key", lambda work: 1 / 0))
        assert [path.name for path in (tmp_path / "cache").iterdir()] == ["key"]

    def test_a_folder_of_the_user_in_the_cache_stays(self, tmp_path):
        """Its name begins as that of a work folder does."""
        (tmp_path / ".work-notes").mkdir()
        (tmp_path / ".work-notes" / "thesis.tex").write_text("years of work")
        for _ in range(2):
            self.check(cached_streamed(tmp_path, "key", self.make))
        assert (tmp_path / ".work-notes" / "thesis.tex").read_text() == "years of work"

    def test_arrays_can_be_read_after_their_entry_is_gone(self, tmp_path):
        arrays = cached_streamed(tmp_path / "cache", "key", self.make)
        shutil.rmtree(tmp_path / "cache")
        self.check(arrays)

    def test_no_file_stays_open_longer_than_its_array(self, tmp_path):
        before = len(list(Path("/proc/self/fd").iterdir()))
        arrays = cached_streamed(tmp_path / "cache", "key", self.make)
        part = arrays["numbers"][5:7]
        del arrays
        assert Path(part.filename).exists()
        del part
        gc.collect()
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    @pytest.mark.parametrize("case", ["file", "open"])
    def test_a_cache_that_cannot_be_used(self, tmp_path, monkeypatch, caplog, case):
        (tmp_path / "tmp").mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
        (tmp_path / "file").touch()
        (tmp_path / "open").mkdir()
        (tmp_path / "open").chmod(0o777)
        self.check(cached_streamed(tmp_path / case, "key", self.make))
        assert list((tmp_path / "tmp").iterdir()) == []
        assert "is not used (" in caplog.text
        assert list((tmp_path / "open").iterdir()) == []

    def test_files_that_cannot_be_written(self, tmp_path):
        """If temporary files are on the same disk, they are not tried."""

        def fail(work):
            raise OSError(28, "No space left on device", str(work / "x"))

        with pytest.raises(RunError) as caught:
            cached_streamed(tmp_path / "cache", "key", fail)
        assert str(caught.value) == (
            f"cache {tmp_path / 'cache'}: cannot be written (No space left on device). Free some space, or name "
            "another folder with the variable HYPERFOCAL_CACHE"
        )
        assert list((tmp_path / "cache").iterdir()) == []

    @needs_root
    def test_a_folder_above_is_swapped_while_files_are_made(self, tmp_path):
        """Its owner puts a folder with other files in its place; work goes on in the folder that was checked."""
        theirs = tmp_path / "theirs"
        cache = theirs / "cache"
        cache.mkdir(parents=True)
        os.chown(theirs, OTHER, OTHER)

        def make(work):
            arrays = self.make(work)
            planted = theirs / "cache" / work.resolve().name
            theirs.rename(tmp_path / "moved")
            planted.mkdir(parents=True)
            (work / "more.bin").write_bytes(b"my bytes")
            (planted / "more.bin").write_bytes(b"planted.")
            return arrays | {"more": map_file(work / "more.bin", np.dtype("S8"))}

        assert cached_streamed(cache, "key", make)["more"].tolist() == [b"my bytes"]


class TestKeys:
    """The key of a file changes with its content, whatever else is the same."""

    @pytest.fixture
    def file(self, tmp_path):
        path = tmp_path / "log.csv"
        path.write_bytes(bytes(300_000))
        return path

    def test_it_is_the_same_for_the_same_file(self, file):
        assert key_of(file, ["user"]) == key_of(file, ["user"]) != key_of(file, ["item"])

    @pytest.mark.parametrize("place", [0, 70_000, 150_000, 299_999])
    @pytest.mark.parametrize("way", ["in place", "replaced"])
    def test_a_byte_changes_and_the_time_is_set_back(self, file, place, way):
        """In the middle, only the time of the last change of the file's own facts differs, which nobody can set."""
        before, key = file.stat(), key_of(file, [])
        time.sleep(0.02)  # the resolution of that time
        if way == "replaced":
            file.rename(file.with_name("old"))
            shutil.copy(file.with_name("old"), file)
        with file.open("r+b") as opened:
            opened.seek(place)
            opened.write(b"x")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        after = file.stat()
        assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
        assert key_of(file, []) != key
