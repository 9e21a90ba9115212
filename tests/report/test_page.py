import json
import re

import pytest

from hyperfocal.errors import RunError
from hyperfocal.report import page as vega
from hyperfocal.report.blocks import Bullets, Cell, Chart, Chips, Facts, Folded, Page, Paragraph, Quote, Section, Table
from hyperfocal.report.charts import dots
from hyperfocal.report.page import line_of, render, write_page
from user_cases import give, needs_root

SCRIPT = "</script><script>alert(1)</script>"


def page(*blocks: object, **changes: object) -> Page:
    plain = {"name": "n", "above": "a", "headline": "h", "lead": ["l"], "sections": [Section("s", "t", blocks)]}
    return Page(**(plain | changes))


def chart(name: str) -> Chart:
    spec = dots([{"name": name, "mean": 1.0, "low": float("nan"), "high": None}], [name], name, name, name)
    return Chart(name, spec, name, "metric", {name: name})


def blocks(text: str) -> list[object]:
    rows = [(text, [(text, True)])]
    return [
        Paragraph(text),
        Bullets([text], warn=True),
        Facts([(text, text)]),
        Folded(text, [Paragraph(text)]),
        Chips(text, rows),
        Quote(text, text, rows),
        Table(text, [text, "b"], [[Cell(text), Cell(text, 1.0)]], texts=["b"], notes={text: text}),
        chart(text),
    ]


def own_part(html: str) -> str:
    """Return the page without the script that draws charts."""
    return "".join(part for part in re.split(r"(?s)<script>.*?</script>", html))


def test_text_of_users_is_escaped_in_every_place():
    html = render(page(*blocks(SCRIPT), name=SCRIPT, above=SCRIPT, headline=SCRIPT, lead=[SCRIPT]))
    assert "alert(1)" not in re.sub(r"&lt;script&gt;alert\(1\)|u003cscript\\u003ealert\(1\)", "", html)
    assert html.count("<script") == html.count("</script>") == 3


def test_the_json_of_charts_is_read_back_unchanged_except_for_nan():
    html = render(page(chart(SCRIPT)))
    found = json.loads(re.search(r'(?s)id="charts">(.*?)</script>', html)[1])
    assert found[0]["description"] == SCRIPT
    [rows] = found[0]["datasets"].values()
    assert rows == [{"name": SCRIPT, "mean": 1.0, "low": None, "high": None}]


def test_control_characters_get_a_sign_and_lone_surrogates_can_be_written(tmp_path):
    path = write_page(page(*blocks("a\x00b\x1bc\x7fd\ud800e")), tmp_path / "page.html")
    html = own_part(path.read_text(encoding="utf-8"))
    assert "a\u2400b\u241bc\u2421d\ufffde" in html
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f]", html)


def test_braces_in_a_text_are_no_template():
    assert "{{ 7 * 7 }}" in render(page(Paragraph("{{ 7 * 7 }}")))


def test_names_are_isolated_so_that_right_to_left_stays_within():
    html = render(page(*blocks("\u05d0\u202e")))
    assert html.count("<bdi>\u05d0\u202e</bdi>") >= 5


def test_the_page_asks_for_nothing():
    html = own_part(render(page(*blocks("x"))))
    assert re.findall(r"https?:|//[a-z]|url\(|@import", html) == []
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1]
    assert policy.startswith("default-src &#39;none&#39;")
    assert "unsafe-eval" not in policy
    assert policy.count("sha256-") == 2


def test_sections_without_blocks_are_left_out():
    html = render(page(sections=[Section("empty", "Nothing here", []), Section("full", "Here", [Paragraph("p")])]))
    assert "Nothing here" not in html
    assert '<a href="#full">Here</a>' in html


def test_a_report_that_fails_is_a_warning():
    def fail():
        raise KeyError("a bug of ours")

    assert line_of(fail, "hyperfocal report run") == (
        "warning: no report was written (KeyError: 'a bug of ours'). All else is saved; try `hyperfocal report run`"
    )


def test_a_page_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot write .*file/page\.html"):
        write_page(page(), tmp_path / "file" / "page.html")


@pytest.fixture
def made(monkeypatch):
    """Count how often the script of charts is made, without making it."""
    calls = []
    monkeypatch.setattr(vega, "make_bundle", lambda: calls.append(1) or "x" * 100_000)
    return calls


def test_the_script_is_made_once_and_again_if_the_cached_one_is_incomplete(tmp_path, made):
    first = vega.bundle(tmp_path)
    assert vega.bundle(tmp_path) == first
    assert len(made) == 1
    [script] = tmp_path.rglob("*.npy")
    script.write_text("cut off")
    assert vega.bundle(tmp_path) == first
    assert len(made) == 2


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path, made, caplog):
    (tmp_path / "file").write_text("")
    assert vega.bundle(tmp_path / "file") == "x" * 100_000
    assert f"cache {tmp_path / 'file'}: is not used (Not a directory)" in caplog.text


@needs_root
@pytest.mark.parametrize("planted", ["script", "entry", "cache"])
def test_a_script_of_another_user_enters_no_report(tmp_path, made, monkeypatch, planted):
    """With the checksum that belongs to it: whoever can write the files can write that, too."""
    cache = tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(vega, "make_bundle", lambda: "steal()")
        vega.bundle(cache)
    [script] = cache.rglob("*.npy")
    give({"script": script, "entry": script.parent, "cache": cache}[planted])
    assert vega.bundle(cache) == "x" * 100_000
    assert made == [1]


def test_a_script_that_cannot_be_made_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(vega, "PRINT_BUNDLE", "raise SystemExit('no memory')")
    vega.make_bundle.cache_clear()
    with pytest.raises(RunError, match="vl-convert cannot make the script of the charts: no memory"):
        vega.bundle(tmp_path)
