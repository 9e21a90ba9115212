"""The files of RecBole (typed headers) and of MovieLens (`::`)."""

import polars as pl
import pytest

from hyperfocal.data.blocks import read_blocks
from hyperfocal.data.documents import as_documents
from hyperfocal.data.files import File
from hyperfocal.data.item_table import fit_columns, read_items
from hyperfocal.data.logs import as_log
from hyperfocal.data.readers import read_frame
from hyperfocal.errors import DataError

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n007\ta b\t4.0\t1.5e9\n\n007\tc\t\t1400000000\n"
ITEM = "item_id:token\ttopics:token_seq\tvector:float_seq\nc\tred  dry\t0.5 1\na b\t\t\n"


def error(read):
    with pytest.raises(DataError) as caught:
        read()
    return str(caught.value)


class TestRecBole:
    @pytest.mark.parametrize("name", ["ml.inter", "ml.inter.gz", "ml.tsv", "ml.csv"])
    def test_events(self, put, name):
        path = put(name, INTER.replace("\t", "," if name == "ml.csv" else "\t"))
        frame = read_frame(File(path))
        assert frame.columns == ["user_id", "item_id", "rating", "timestamp"]
        assert frame.row(0) == ("007", "a b", "4.0", "1.5e9")
        log = as_log(path)
        assert (log.plan.name("user"), log.plan.name("item"), log.items.to_list()) == (
            "user_id",
            "item_id",
            ["c", "a b"],
        )

    @pytest.mark.parametrize("rows", [1, 10])
    def test_blocks(self, put, rows):
        blocks = list(read_blocks(put("ml.inter", INTER), rows))
        assert pl.concat([block.frame for block in blocks]).equals(read_frame(File(put("ml.inter", INTER))))
        assert blocks[-1].file.place(0 if rows == 1 else 1).endswith("ml.inter line 4")

    def test_lists(self, put):
        path = put("ml.item", ITEM)
        assert read_frame(File(path)).rows() == [("c", ["red", "dry"], ["0.5", "1"]), ("a b", None, None)]
        table = read_items(path)
        assert table.ids.to_list() == ["c", "a b"]
        columns, _ = fit_columns(table, ["topics"], table.ids)
        assert columns[0].kind == "list"
        assert columns[0].values == {"red": 1, "dry": 1}

    @pytest.mark.parametrize("rows", [None, 1, 2])
    def test_quotes_are_text(self, put, rows):
        path = put("ml.item", 'item_id:token\ttitle:token\n1\t"Great" Cats\n2\t12" Vinyl\n3\t"\n4\tx\n')
        frame = read_frame(File(path)) if rows is None else pl.concat([b.frame for b in read_blocks(path, rows)])
        assert frame["title"].to_list() == ['"Great" Cats', '12" Vinyl', '"', "x"]
        assert File(path).place(3) == f"{path} line 5"
        path = put("ml.item", 'item_id:token\ttitle:token\n1\t"Great" Cats\n2\t"\n3\tx\ty\n')
        fault = error(lambda: read_frame(File(path)) if rows is None else list(read_blocks(path, rows)))
        assert "line 4 has 3 fields, the header 2" in fault

    def test_a_header_with_other_colons_is_no_typed_header(self, put):
        frame = read_frame(File(put("log.csv", "user:token,item,at:float\na,b,1\n")))
        assert frame.columns == ["user:token", "item", "at:float"]
        assert read_frame(File(put("log.csv", ":token,a:float\na,1\n"))).columns == [":token", "a:float"]

    def test_one_name_with_two_types(self, put):
        path = put("ml.inter", "a:token\ta:float\n1\t2\n")
        assert error(lambda: read_frame(File(path))) == (
            f"{path}: the header has column 'a' with two types. Rename one of them"
        )

    def test_a_second_header(self, put):
        assert "line 5: the header again" in error(lambda: as_log(put("ml.inter", INTER + INTER)))


RATINGS = "1::31::2.5::1260759144\n1::1029::3.0::1260759179\n\n2::31::4::1260759100\n"
MOVIES = "31::Misérables, Les (1995)::Drama|Musical\n1029::Dumbo::Animation|Children's\n7::No genre::\n"


class TestMovieLens:
    @pytest.mark.parametrize("name", ["ratings.dat", "ratings.dat.gz", "ratings.dat.bz2"])
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_ratings(self, put, name, end):
        path = put(name, RATINGS.replace("\n", end))
        frame = read_frame(File(path))
        assert frame.columns == ["user", "item", "rating", "timestamp"]
        assert frame.rows()[1] == ("1", "1029", "3.0", "1260759179")
        assert frame.height == 3
        assert pl.concat([block.frame for block in read_blocks(path, 1)]).equals(frame)
        log = as_log(path)
        assert (log.users.to_list(), log.items.to_list()) == (["1", "2"], ["31", "1029", "31"])

    def test_fewer_fields(self, put):
        three = read_frame(File(put("r.dat", "1::31::99\n")))
        assert three.to_dicts() == [{"user": "1", "item": "31", "timestamp": "99"}]
        assert read_frame(File(put("r.dat", "1::31\n"))).to_dicts() == [{"user": "1", "item": "31"}]

    @pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16"])
    def test_movies(self, put, encoding):
        table = read_items(put("movies.dat", MOVIES.encode(encoding)))
        assert table.ids.to_list() == ["31", "1029", "7"]
        assert table.frame["title"][0] == "Misérables, Les (1995)"
        columns, _ = fit_columns(table, ["genres"], table.ids)
        assert sorted(columns[0].values) == ["Animation", "Children's", "Drama", "Musical"]

    def test_quotes_and_commas_are_text(self, put):
        assert read_frame(File(put("r.dat", 'u"1::"a,b"::1\n'))).rows() == [('u"1', '"a,b"', "1")]

    @pytest.mark.parametrize("rows", [None, 1, 2])
    @pytest.mark.parametrize("line", ["3::31::4", "3::31::4::1::x", "3"])
    def test_another_number_of_fields_names_the_line(self, put, line, rows):
        path = put("ratings.dat", RATINGS + f" \n{line}\n9::9::9::9\n")
        message = error(lambda: as_log(path) if rows is None else list(read_blocks(path, rows)))
        assert message.startswith(f"{path} line 6: has {line.count('::') + 1} fields separated by '::', ")

    def test_another_format(self, put):
        message = error(lambda: as_log(put("log.dat", "user\titem\na\tb\n")))
        assert (
            "line 1: has 1 fields separated by '::', but a .dat file has MovieLens's format: user::item or " in message
        )
        assert "documents cannot be read from .dat" in error(lambda: as_documents(put("docs.dat", "a::b\n")))
        assert "the file is empty" in error(lambda: as_log(put("log.dat", "\n\n")))
        assert "line 1: has 5 fields" in error(lambda: read_items(put("users.dat", "1::F::1::10::48067\n")))
