r"""JSON lines: large integers next to floats, and escapes of half a character (`\ud83d`)."""

import json

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hyperfocal.data.blocks import read_blocks, whole_users
from hyperfocal.data.documents import Documents, as_documents
from hyperfocal.data.files import File
from hyperfocal.data.logs import Log, as_log, row_users
from hyperfocal.data.readers import read_frame
from hyperfocal.errors import DataError

BIG = 2**53 + 1


class TestHalves:
    @pytest.mark.parametrize(
        "half", [r"\ud83d", r"\uDE00", r"x\ud83d\ud83d\ude00", r"\ude00\ud83d", r"\\\ud83d", r"\ud83dA"]
    )
    @pytest.mark.parametrize("rows", [None, 1, 10])
    def test_the_line_is_named(self, put, half, rows):
        path = put("log.jsonl", '{"user": "a", "item": "\\ud83d\\ude00"}\n\n{"item": "' + half + '"}\n')
        with pytest.raises(DataError) as caught:
            read_frame(File(path)) if rows is None else list(read_blocks(path, rows))
        assert str(caught.value).startswith(f'{path} line 3: "{half}" has half a character, ')
        assert str(caught.value).endswith(r"Write both escapes of the character, such as \ud83d\ude00, or remove it")

    @pytest.mark.parametrize(
        "text", [r"\\ud83d", r"\ud83d\ude00", r"\\\\ud83d", r"\ud55c\uae00", r"\\\ud83d\ude00", "😀"]
    )
    def test_whole_characters_and_escaped_backslashes(self, put, text):
        path = put("log.jsonl", '{"user": "' + text + '"}\n')
        assert read_frame(File(path))["user"].to_list() == [json.loads(f'"{text}"')]

    def test_in_a_name_and_in_documents(self, put):
        for line in (r'{"\ud83d": "x"}', r'{"text": "a", "labels": ["b", "\ud83d"]}'):
            with pytest.raises(DataError, match=r"line 1: .* has half a character"):
                as_documents(put("docs.jsonl", line + "\n"))

    @settings(deadline=None, max_examples=200)
    @given(st.lists(st.sampled_from([r"\\", r"\ud83d", r"\ude00", r"\"", "u", "d83d", r"\n", r"\u00e9"]), max_size=7))
    @example([r"\\", "u", "d83d"])
    @example([r"\\", "u", "d83d", r"\ude00"])  # only the second half is an escape
    def test_as_python_reads_it(self, tmp_path_factory, pieces):
        path = tmp_path_factory.mktemp("any") / "log.jsonl"
        path.write_text('{"user": "' + "".join(pieces) + '"}\n', encoding="utf-8")
        value = json.loads(path.read_text(encoding="utf-8"))["user"]
        if any("\ud800" <= character <= "\udfff" for character in value):
            with pytest.raises(DataError, match=r"line 1: .* has half a character"):
                read_frame(File(path))
        else:
            assert read_frame(File(path))["user"].to_list() == [value]

    def test_in_lists_and_frames(self):
        half = "a\ud83d"
        pd = pytest.importorskip("pandas")
        for fault in (
            lambda: Documents.from_lists([half]),
            lambda: Documents.from_lists(["a"], [[half]]),
            lambda: Documents.from_lists(["a"], ids=[half]),
            lambda: Documents.from_lists(["a"], groups=[half]),
            lambda: Log.from_lists([["x", half]]),
            lambda: as_log({"user": ["a"], "item": [half]}),
            lambda: as_log(pd.DataFrame({"user": ["a", "b"], "item": pd.Series(["x", half], dtype=object)})),
        ):
            with pytest.raises(DataError, match="half a character"):
                fault()


class TestExactNumbers:
    @pytest.mark.parametrize("other", ["3.0", "0.5", "null", "3e2"])
    @pytest.mark.parametrize("late", [False, True])
    def test_one_float_merges_no_ids(self, put, other, late):
        lines = [f'{{"user": {BIG - 1}}}', f'{{"user": {BIG}}}', *['{"user": 7}'] * (2000 if late else 0)]
        frame = read_frame(File(put("log.jsonl", "\n".join([*lines, f'{{"user": {other}}}', ""]))))
        texts = frame["user"].cast(pl.String).to_list()
        assert texts[:2] == [str(BIG - 1), str(BIG)]
        assert texts[-1] == {"3.0": "3", "0.5": "0.5", "null": None, "3e2": "300"}[other]

    def test_a_whole_float_of_many_digits_is_exact(self, put):
        frame = read_frame(File(put("log.jsonl", f'{{"user": {BIG}.0}}\n{{"user": 1e20}}\n{{"user": 1e300}}\n')))
        assert frame["user"].to_list() == [str(BIG), "1" + 20 * "0", "1e+300"]

    def test_lists(self, put):
        frame = read_frame(File(put("log.jsonl", f'{{"a": [{BIG}, 2.0]}}\n{{"a": null}}\n{{"a": []}}\n')))
        assert frame["a"].to_list() == [[str(BIG), "2"], None, []]

    def test_other_columns_of_floats_stay_floats(self, put):
        frame = read_frame(File(put("log.jsonl", f'{{"user": {BIG}, "price": 0.5}}\n{{"user": 2.0, "price": 3}}\n')))
        assert frame["price"].to_list() == [0.5, 3.0]
        assert frame["user"].to_list() == [BIG, 2]

    def test_several_columns_at_once(self, put):
        lines = [f'{{"a": {BIG}, "b": "1.0", "c": [{BIG}, 0.50], "d": 2.5e0}}', f'{{"a": 1.0, "d": {BIG}}}', "{}"]
        frame = read_frame(File(put("log.jsonl", "\n".join(lines))))
        assert frame.rows() == [
            (BIG, "1.0", [str(BIG), "0.5"], "2.5"),
            (1, None, None, str(BIG)),
            (None, None, None, None),
        ]

    @pytest.mark.parametrize("rows", [1, 2, 3])
    def test_whole_users_of_blocks(self, put, rows):
        """The rows of a user move to a block whose users are floats: their ids stay exact."""
        ids = [str(BIG), str(BIG), "7.0", "8.0"]
        path = put("log.jsonl", "".join(f'{{"user": {user}, "item": "x"}}\n' for user in ids))
        blocks = list(whole_users(read_blocks(path, rows), lambda frame, file: row_users(frame, None, file)))
        users = [user for block in blocks for user in row_users(block.frame, None, block.file).to_list()]
        assert users == [str(BIG), str(BIG), "7", "8"]


VALUES = [{"a": 1}, {"b": {"c": 2}}, [1], ["x"], "text", 3, 0.5, None, True, [[1]], [{"a": 1}], {"a": "x"}, {"a": [1]}]


class TestMixedValues:
    @pytest.mark.parametrize("one", VALUES)
    def test_a_column_that_nobody_reads_does_no_harm(self, put, one):
        for other in VALUES:
            lines = [{"user": BIG, "item": 0.5, "more": one}, {"user": 7, "item": 1, "more": other}, {}]
            frame = read_frame(File(put("log.jsonl", "".join(json.dumps(line) + "\n" for line in lines))))
            assert frame.select("user", "item").rows() == [(BIG, 0.5), (7, 1.0), (None, None)]

    @pytest.mark.parametrize(
        ("one", "other", "texts"),
        [
            ([1], "a", ["[1]", "a"]),
            ({"a": 1}, [1], ['{"a": 1}', "[1]"]),
            (3.0, True, ["3", "true"]),
            ({"a": [1]}, {"a": 1}, ['{"a": [1]}', '{"a": 1}']),
        ],
    )
    def test_values_without_a_common_type_are_text(self, put, one, other, texts):
        rows = [{"more": one, "labels": ["é"]}, {"more": other, "labels": ["b"]}]
        frame = read_frame(File(put("log.jsonl", "".join(json.dumps(row) + "\n" for row in rows))))
        expected = frame["more"] if frame["more"].dtype == pl.String else frame["more"].map_elements(json.dumps)
        assert expected.to_list() == texts

    @pytest.mark.parametrize("line", ['{"a": NaN}', "[1]", "3", '{"a": 1', '{"a": ' + "[" * 5_000 + "}"])
    def test_what_is_no_json_object_is_refused_as_ever(self, put, line):
        path = put("log.jsonl", '{"a": {"b": 1}}\n{"a": [1]}\n' + line + "\n")
        with pytest.raises(DataError, match=r"line 3 (is not|has thousands)"):
            read_frame(File(path))
