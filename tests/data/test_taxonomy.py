from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperfocal.data.taxonomy import Taxonomy, read_taxonomy
from hyperfocal.errors import DataError

IAB = Path(__file__).parents[2].parent / "shared" / "data" / "iab_taxonomy"
TREE = "id\tparent\tname\n3\t2\tSedan\n1\t\tCars\n2\t1\tBodies\n4\t\tWork\n5\t4\tBodies\n"


def error(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_taxonomy(path)
    return str(caught.value).replace(str(path), "FILE")


@pytest.fixture
def tree(put):
    return read_taxonomy(put("a.tsv", TREE))


def test_a_tree_whose_parents_come_later(tree):
    assert tree.ids == ["3", "1", "2", "4", "5"]
    assert tree.names == ["Sedan", "Cars", "Bodies", "Work", "Bodies"]
    assert tree.parents == [2, -1, 1, -1, 3]
    assert tree.tiers == [3, 1, 2, 1, 2]
    assert tree.ancestors("3") == ["2", "1"]
    assert tree.ancestors("1") == []
    assert tree.path_name("3") == "Cars > Bodies > Sedan"


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz", "a.csv", "a.csv.gz"])
@pytest.mark.parametrize("header", ["id parent name", "Unique ID,PARENT,Name", "ID Parent_ID NAME"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_formats(put, tree, name, header, end):
    separator = "\t" if "tsv" in name else ","
    columns = header.split("," if "," in header else " ")
    lines = [separator.join(columns), *(line.replace("\t", separator) for line in TREE.splitlines()[1:]), "", ""]
    read = read_taxonomy(put(name, "\ufeff" + end.join(lines)))
    assert (read.ids, read.names, read.parents) == (tree.ids, tree.names, tree.parents)


def test_columns_in_any_order_a_short_row_and_no_name(put):
    read = read_taxonomy(put("a.csv", 'name,x,id,parent\n"Food, drink",,a,\n,,b, a \nc,,c\n'))
    assert (read.ids, read.names, read.parents) == (["a", "b", "c"], ["Food, drink", "b", "c"], [-1, 0, -1])


def test_resolve(tree):
    assert tree.resolve("Sedan") == "3"
    assert tree.resolve(" 3 ") == "3"
    assert tree.resolve("sedans") is None
    message = r"label 'Bodies' is the name of 2 categories: 2 \(Cars > Bodies\); 5 \(Work > Bodies\)\. Use the id"
    with pytest.raises(DataError, match=message):
        tree.resolve("Bodies")


def test_an_id_goes_before_a_name():
    assert Taxonomy(["a", "b"], ["b", "a"], [-1, -1]).resolve("a") == "a"


def test_no_such_id(tree):
    with pytest.raises(DataError, match=r"taxonomy: no category has the id 'Sedan'\."):
        tree.ancestors("Sedan")


def test_add_parents(tree):
    labels = pl.Series("labels", [["Sedan", "new"], [], None, ["1", "3", "5"]], dtype=pl.List(pl.String))
    added = tree.add_parents(labels)
    assert added.to_list() == [["3", "2", "1", "new"], [], [], ["1", "3", "2", "5", "4"]]
    assert tree.add_parents(added).to_list() == added.to_list()
    assert tree.add_parents(labels.head(0)).dtype == pl.List(pl.String)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=30))
def test_any_tree(choices):
    parents = [choice % number if number and choice % (number + 1) else -1 for number, choice in enumerate(choices)]
    ids = [str(number) for number in range(len(parents))]
    tree = Taxonomy(ids, ids, parents)
    for number, parent in enumerate(parents):
        above = tree.ancestors(ids[number])
        assert above == ([] if parent == -1 else [ids[parent], *tree.ancestors(ids[parent])])
        assert tree.tiers[number] == 1 + len(above)


# Files that are wrong


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a\tc\tx\nb\ta\tx\nc\tb\tx\nd\ta\tx\n", "FILE: a category is its own ancestor: a -> c -> b -> a. Correct"),
        ("d\ta\tx\na\ta\tx\n", "FILE: a category is its own ancestor: a -> a."),
        (
            "a\t\tx\n\nb\tz\ty\n",
            "FILE line 4: parent 'z' of 'b' is not a category. Write the id of a category, or nothing",
        ),
        (
            "a\t\tx\nb\t\ty\na\tb\ty\n",
            "FILE line 4: id 'a' is already in line 2. Give each category its own id",
        ),
        ("a\t\tx\n\t\ty\n", "FILE line 3: a category without an id. Complete or remove the line"),
        ("", "FILE: has no categories. Give a file with one row per category"),
        ('a\t\t"x\n', "FILE: not readable as csv: line 2 has a quote that is not closed"),
    ],
)
def test_rows_that_are_wrong(put, rows, message):
    assert error(put("a.tsv", "id\tparent\tname\n" + rows)).startswith(message)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file(put, content):
    assert error(put("a.tsv", content)) == "FILE: the file is empty. Give a file with one row per category"


def test_a_file_that_is_no_taxonomy(put, tmp_path):
    message = (
        "FILE: no header with the columns id, parent and name. Use these names in the first line. Columns found: id,"
    )
    assert error(put("a.tsv", "id\tname\n1\tx\n")).startswith(message)
    assert error(tmp_path / "b.tsv").startswith("FILE: no such file")
    assert error(put("a.jsonl", "{}")) == "FILE: a taxonomy is a text table. Allowed: .tsv, .csv, also compressed"
    assert "line 2 is not UTF-8 text" in error(put("a.csv", "id,parent,name\n1,,é\n".encode("latin-1")))


# The IAB's


def iab(version: str) -> Taxonomy:
    path = IAB / f"Content Taxonomy {version}.tsv"
    if not path.exists():
        pytest.skip(f"no {path}")
    return read_taxonomy(path)


def test_iab_2_2_has_698_topics_in_four_tiers():
    tree = iab("2.2")
    assert Counter(tree.tiers) == {1: 29, 2: 342, 3: 267, 4: 60}
    assert sum(Counter(tree.tiers).values()) == len(tree) == 698
    assert sorted(map(int, tree.ids)) == list(range(1, 699))
    assert tree.path_name("4") == "Automotive > Auto Body Styles > Sedan"
    assert tree.add_parents(pl.Series([["Sedan"]])).to_list() == [["4", "2", "1"]]
    assert tree.resolve("Email") == "623"  # another one is a Content Channel
    assert tree.resolve("Sensitive Topics") is None


def test_iab_3_1():
    tree = iab("3.1")
    assert Counter(tree.tiers) == {1: 37, 2: 325, 3: 273, 4: 69}
    assert len(tree) == 704
    assert tree.path_name("W3CW2J").startswith("Technology & Computing > Computing > ")
    assert tree.resolve("Sensitive Topics") == "v9i3On"


def test_only_files_with_tiers_leave_trees_out(put):
    rows = "a,,Content Channel{0}\nb,a,Email{1}\nc,,Cars{2}\nd,,Floor{1}\n"
    assert read_taxonomy(put("a.csv", "id,parent,name\n" + rows.format("", "", ""))).ids == ["a", "b", "c", "d"]
    tiered = "x,,,y\nUnique ID,Parent,Name,Tier 1\n" + rows.format(",Content Channel", ",", ",Cars")
    assert read_taxonomy(put("a.csv", tiered)).ids == ["c"]


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        ([1, 0], "is its own ancestor: a -> b -> a"),
        ([-1, 2], "do not match"),
        ([-1], "do not match"),
    ],
)
def test_a_damaged_tree_of_a_run_is_refused(parents, message):
    with pytest.raises(DataError, match=message):
        Taxonomy.from_json({"ids": ["a", "b"], "names": ["A", "B"], "parents": parents})
