"""The texts of labels: names, a tree, or a file; each oddity of a file is an error or a counted note."""

import json
import logging

import pytest

from hyperfocal.classify.label_texts import LabelTexts, label_texts, read_label_texts
from hyperfocal.data.taxonomy import read_taxonomy
from hyperfocal.errors import DataError

LABELS = ["a1", "b2", "c3"]
TABLES = {
    "t.csv": 'label,name,description\na1,Red wine,"Grapes, pressed"\nb2,Beer,\n',
    "t.tsv": "label\tname\tdescription\na1\tRed wine\tGrapes, pressed\nb2\tBeer\t\n",
    "t.jsonl": "".join(
        json.dumps(row) + "\n"
        for row in (
            {"label": "a1", "name": "Red wine", "description": "Grapes, pressed"},
            {"label": "b2", "name": "Beer", "description": None},
        )
    ),
}


@pytest.fixture
def file(tmp_path):
    def write(text, name="t.csv"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


@pytest.mark.parametrize("name", TABLES)
def test_a_table_gives_names_and_descriptions(name, file, caplog):
    with caplog.at_level(logging.WARNING, logger="hyperfocal"):
        found = label_texts(file(TABLES[name], name), LABELS, None)
    assert found == LabelTexts(("Red wine", "Beer", "c3"), ("Grapes, pressed", "", ""))
    assert found.whole == ["Red wine. Grapes, pressed", "Beer", "c3"]
    (note,) = caplog.messages
    assert note.endswith(f"{name}: 1 label of training without a row, such as 'c3'")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("label,name\na1,Red\n", {"a1": ("Red", "")}),
        (
            "label,description\na1,Red\n",
            {"a1": (None, "Red")},
        ),  # no column of names
        ("description,label,name\nRed, a1 ,\n", {" a1 ": ("", "Red")}),
        ("label,name,color\n7,Seven,x\n", {"7": ("Seven", "")}),
    ],
)
def test_columns_of_a_table(text, expected, file):
    assert read_label_texts(file(text)) == expected


def test_names_are_the_labels(caplog):
    labels = ["role::app-data", "foodSafety", "R2"]
    found = label_texts("names", labels, None)
    assert (found.names, found.descriptions) == (tuple(labels), ("", "", ""))
    assert found.whole == ["role app data", "food Safety", "R2"]
    assert caplog.messages == []


def test_a_tree_gives_names_with_those_above(tmp_path, file):
    path = tmp_path / "tree.tsv"
    path.write_text("id\tparent\tname\n1\t\tDrinks\n2\t1\tWine\n3\t2\tRed\n")
    tree = read_taxonomy(path)
    assert label_texts("names", ["3", "1", "x"], tree).names == ("Drinks > Wine > Red", "Drinks", "x")
    given = label_texts(file("label,name\n3,Claret\n1,\nx,y\n"), ["3", "1", "x"], tree)
    assert given.names == ("Claret", "", "y")  # an empty name is none: the file wins over the tree
    given = label_texts(file("label,description\n3,A wine\n", "d.csv"), ["3", "1", "x"], tree)
    assert given.names == ("Drinks > Wine > Red", "Drinks", "x")  # the table has no names


@pytest.mark.parametrize("labels", [["1", "22", "3"], ["", "::", "4-5"], []])
def test_names_without_letters_are_no_texts(labels):
    assert label_texts("names", labels, None) is None


def test_no_texts_are_asked_for(tmp_path):
    assert label_texts("off", LABELS, None) is None


def test_numbers_get_texts_from_a_file(file):
    assert label_texts(file("label,name\n1,wine\n2,beer\n"), ["1", "2"], None).names == ("wine", "beer")


NOTES = {
    "1 label that training does not have, such as 'zz'": "label,name\na1,A\nb2,B\nc3,C\nzz,Z\n",
    "2 labels that training does not have, such as 'yy'": "label,name\na1,A\nb2,B\nc3,C\nzz,Z\nyy,Y\n",
    "2 labels with an empty text, such as 'a1'": "label,name\na1,\nb2, \nc3,C\n",
    "2 labels with the name of an earlier label, such as 'b2'": "label,name\na1,Red wine\nb2,RED-wine\nc3,redWine\n",
    "1 label of training without a row, such as 'b2'": "label,name\na1,A\nc3,C\n",
}


@pytest.mark.parametrize("note", NOTES)
def test_oddities_of_a_file_are_counted(note, file, caplog):
    path = file(NOTES[note])
    with caplog.at_level(logging.WARNING, logger="hyperfocal"):
        label_texts(path, LABELS, None)
    assert caplog.messages == [f"{path}: {note}"]


BAD = {
    "columns are label, color": "label,color\na1,Red\n",
    "columns are name, description": "name,description\na1,Red\n",
    "line 4: label 'a1' is already in the file": "label,name\nb2,Blue\na1,Red\na1,Rose\n",
    "no label. Give one row per label": 'label,name\na1,Red\n"",Blue\n',
    "the file is empty": "",
}


@pytest.mark.parametrize("problem", BAD)
def test_a_bad_file_is_refused(problem, file):
    path = file(BAD[problem])
    with pytest.raises(DataError) as error:
        label_texts(path, LABELS, None)
    said = str(error.value)
    assert said.startswith(path)
    assert problem.split(": ")[-1] in said or problem in said, said


def test_a_file_that_is_missing_is_named_with_the_other_values(tmp_path):
    for source in (str(tmp_path / "none.csv"), "name", "Names", ""):
        with pytest.raises(DataError) as error:
            label_texts(source, LABELS, None)
        assert "names" in str(error.value), error.value
        assert source in str(error.value)


@pytest.mark.parametrize("value", [{}, {"names": ["a"]}, {"names": ["a"], "descriptions": []}, {"names": 3}])
def test_a_value_that_is_none_is_refused(value):
    with pytest.raises((ValueError, KeyError, TypeError)):
        LabelTexts.from_json(value)


def test_texts_survive_json():
    texts = LabelTexts(("Wine ☃", ""), ("", "x\ny"))
    assert LabelTexts.from_json(json.loads(json.dumps(texts.to_json()))) == texts
