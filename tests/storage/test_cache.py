"""The cache with real folders, and with several processes that want the same arrays at once."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.data.stored_texts import hash_texts
from hyperfocal.machine import CACHE, default_cache
from hyperfocal.storage.cache import cached_vectors, digest_texts, hash_of
from hyperfocal.storage.entries import INDEX

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


def test_the_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(CACHE, raising=False)
    assert default_cache() == tmp_path / ".cache" / "hyperfocal"
    monkeypatch.setenv(CACHE, "")
    assert default_cache() == tmp_path / ".cache" / "hyperfocal"
    monkeypatch.setenv(CACHE, str(tmp_path / "elsewhere"))
    assert default_cache() == tmp_path / "elsewhere"
