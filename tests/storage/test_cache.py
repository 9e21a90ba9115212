"""The cache with real folders, and with several processes that want the same arrays at once."""

import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.data.stored_texts import hash_texts
from hyperfocal.errors import RunError
from hyperfocal.machine import CACHE, default_cache
from hyperfocal.storage.cache import cached_vectors, digest_texts, hash_of
from hyperfocal.storage.entries import INDEX, cached

quick = settings(deadline=None, max_examples=60)
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


class TestDamaged:
    @pytest.mark.parametrize("size", [0, 1, 5, 60, 127, 128, 151])
    def test_a_file_that_is_cut(self, tmp_path, size):
        cached(tmp_path, "key", lambda: ARRAYS)
        path = tmp_path / "key" / "values.npy"  # 128 bytes of header, 24 of values
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(RunError) as caught:
            cached(tmp_path, "key", never)
        assert str(caught.value).startswith(f"cache {tmp_path / 'key'}: is damaged (")
        assert str(caught.value).endswith("Remove this folder; it will be made again")

    @pytest.mark.parametrize("content", [b"not numpy's format at all", b"\x93NUMPY\x01\x00\x03\x00{}\n", b"\x80\x04N."])
    def test_a_file_of_something_else(self, tmp_path, content):
        cached(tmp_path, "key", lambda: ARRAYS)
        (tmp_path / "key" / "values.npy").write_bytes(content)
        with pytest.raises(RunError, match="is damaged"):
            cached(tmp_path, "key", never)

    @pytest.mark.parametrize("name", ARRAYS)
    def test_a_file_that_is_missing(self, tmp_path, name):
        cached(tmp_path, "key", lambda: ARRAYS)
        (tmp_path / "key" / f"{name}.npy").unlink()
        with pytest.raises(RunError, match=rf"key: is damaged \(.*{name}\.npy.*it will be made again"):
            cached(tmp_path, "key", never)

    @pytest.mark.parametrize("size", [0, 1, 20])
    def test_a_list_of_arrays_that_is_cut(self, tmp_path, size):
        cached(tmp_path, "key", lambda: ARRAYS)
        path = tmp_path / "key" / INDEX
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(RunError, match=r"key: is damaged \("):
            cached(tmp_path, "key", never)

    @pytest.mark.parametrize("others", [[], ["values"], list(ARRAYS)])
    def test_without_the_list_of_arrays_it_is_made_anew(self, tmp_path, others):
        """As what is left of an entry that was removed in part."""
        cached(tmp_path, "key", lambda: {"old": np.ones(3)} | ARRAYS)
        for name in (INDEX, *(f"{name}.npy" for name in others)):
            (tmp_path / "key" / name).unlink()
        assert same(cached(tmp_path, "key", lambda: ARRAYS), ARRAYS)
        assert same(cached(tmp_path, "key", never), ARRAYS)
        assert {path.name for path in (tmp_path / "key").iterdir()} == {INDEX, *(f"{name}.npy" for name in ARRAYS)}

    def test_an_array_that_is_not_listed_is_none_of_it(self, tmp_path):
        cached(tmp_path, "key", lambda: ARRAYS)
        np.save(tmp_path / "key" / "mine.npy", np.ones(3))
        assert same(cached(tmp_path, "key", never), ARRAYS)

    def test_removed_as_the_message_says_it_is_made_anew(self, tmp_path):
        cached(tmp_path, "key", lambda: ARRAYS)
        for path in (tmp_path / "key").iterdir():
            path.unlink()
        assert same(cached(tmp_path, "key", lambda: ARRAYS), ARRAYS)  # the folder itself is still there, empty
        assert same(cached(tmp_path, "key", never), ARRAYS)


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


class TestCannotBeWritten:
    @pytest.mark.parametrize("place", ["file", "file/cache", "dangling/cache"])
    def test_no_folder_can_be_there(self, tmp_path, place):
        (tmp_path / "file").write_text("x")
        (tmp_path / "dangling").symlink_to(tmp_path / "file" / "nowhere")
        with pytest.raises(RunError) as caught:
            cached(tmp_path / place, "key", lambda: ARRAYS)
        assert str(caught.value).startswith(f"cache {tmp_path / place}: cannot be written (")
        assert str(caught.value).endswith("name another folder with the variable HYPERFOCAL_CACHE")

    def test_a_file_stands_where_the_arrays_go(self, tmp_path):
        (tmp_path / "key").write_text("mine")
        with pytest.raises(RunError, match="cannot be written"):
            cached(tmp_path, "key", lambda: ARRAYS)
        assert (tmp_path / "key").read_text() == "mine"
        assert len(list(tmp_path.iterdir())) == 1

    def test_no_space_left(self, tmp_path):
        """A process may write files of 100 kB at most: the first array fits, the second does not."""
        code, output = ask(tmp_path, "1", "1000000", limit=100_000)
        assert code == 0
        assert output.startswith(f"made 1\nRunError cache {tmp_path}: cannot be written (")
        assert not list(tmp_path.iterdir())  # no half of an entry, which would be taken for a whole one
        assert ask(tmp_path, "1", "1000000") == (0, "made 1\nread 1\n")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_folder_of_somebody_else(self, tmp_path):
        tmp_path.chmod(0o500)
        with pytest.raises(RunError, match="cannot be written"):
            cached(tmp_path, "key", lambda: ARRAYS)


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

    def test_a_process_that_was_killed_leaves_no_entry(self, tmp_path):
        """What it has written stands aside, hidden, and another one makes the entry."""
        process = start(tmp_path, "1", "-1")
        assert process.stdout.readline() == "made 1\n"
        process.kill()
        process.communicate()
        assert not (tmp_path / "key").exists()
        assert ask(tmp_path, "2", "10") == (0, "made 2\nread 2\n")


def slow(folder: Path, number: int):
    def make():
        time.sleep(0.05)
        return {name: np.full(1_000, number) for name in "abc"}

    return cached(folder, "key", make)


def start(folder: Path, *arguments: object, limit: int = 0) -> subprocess.Popen:
    command = [sys.executable, "-W", "error", __file__, str(folder), *map(str, arguments)]

    def shorten() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1, preexec_fn=shorten)


def ask(folder: Path, *arguments: object, limit: int = 0) -> tuple[int, str]:
    process = start(folder, *arguments, limit=limit)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def program(folder: str, number: str, length: str, go: str = "") -> None:
    """Ask for arrays full of `number`, the second of `length`, once the file `go` exists; run as a program."""

    def make():
        if go:
            print("ready", flush=True)
            deadline = time.monotonic() + 30
            while not Path(go).exists() and time.monotonic() < deadline:
                time.sleep(0.001)
        print("made", number, flush=True)
        if int(length) < 0:
            time.sleep(60)
        return {"a": np.full(3, int(number)), "b": np.full(int(length), int(number))}

    try:
        found = cached(Path(folder), "key", make)
        assert (found["b"] == found["a"][0]).all(), "arrays of two processes were mixed"
        print("read", int(found["a"][0]))
    except RunError as error:
        print("RunError", error)


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


def test_the_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(CACHE, raising=False)
    assert default_cache() == tmp_path / ".cache" / "hyperfocal"
    monkeypatch.setenv(CACHE, "")
    assert default_cache() == tmp_path / ".cache" / "hyperfocal"
    monkeypatch.setenv(CACHE, str(tmp_path / "elsewhere"))
    assert default_cache() == tmp_path / "elsewhere"


if __name__ == "__main__":
    program(*sys.argv[1:])
