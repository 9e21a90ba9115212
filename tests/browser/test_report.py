"""The report in a real browser: nothing leaves the page, nothing in a name runs, and everything works by keyboard.

With HYPERFOCAL_SCREENSHOTS=FOLDER, pictures of the pages go there, at three widths, light and dark.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from hyperfocal.cli.report import write_report
from report_cases import BELL, IMAGE, LABELS, SCRIPT, classify_run, grid, recommend_run

WIDTHS = (390, 820, 1280)
NAMES = ("classify", "recommend", "grid")
COLORS = ("ink", "muted", "accent", "head", "medium", "tail", "right", "better", "worse")
FITTED = """() => {
    const charts = [...document.querySelectorAll(".vega")];
    const shares = charts.map((each) => each.querySelector("svg").clientWidth / each.clientWidth);
    return shares.length >= 4 && shares.every((share) => share > 0.9 && share <= 1);
}"""
LUMINANCE = """name => {
    const probe = document.body.appendChild(document.createElement("i"));
    probe.style.color = `var(--${name})`;
    const channels = getComputedStyle(probe).color.match(/[0-9.]+/g).slice(0, 3).map((part) => part / 255);
    const [r, g, b] = channels.map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the page of a run of each job and of a grid."""
    folder = tmp_path_factory.mktemp("reports")
    made = {"classify": classify_run(folder / "c"), "recommend": recommend_run(folder / "r"), "grid": grid(folder)}
    return {name: write_report(path) for name, path in made.items()}


@pytest.fixture
def opened(watched, pages):
    """Return a function that opens a page and waits for its charts; at the end, check that nothing went wrong."""

    def show(name: str, *, width: int = 820, scheme: str = "light") -> object:
        watched.page.set_viewport_size({"width": width, "height": 900})
        watched.page.emulate_media(color_scheme=scheme)
        watched.page.goto(pages[name].as_uri())
        watched.page.wait_for_selector("html[data-ready]", state="attached")
        return watched.page

    yield show
    assert watched.errors == []
    assert {url.partition(":")[0] for url in watched.requests} == {"file"}
    assert watched.page.evaluate("window.hacked") is None


def first_column(page: object, section: str) -> list[str]:
    """Return the names in the rows of a table that are shown."""
    return page.locator(f"#{section} tbody tr:not([hidden]) th").all_inner_texts()


def values(page: object, section: str, column: str) -> list[float]:
    """Return the numbers of a column in the rows that are shown."""
    table = page.locator(f"#{section} figure.table")
    heads = table.locator("thead th").all_inner_texts()
    place = [re.sub(r"\W*$", "", head) for head in heads].index(column)
    cells = table.locator(f"tbody tr:not([hidden]) > :nth-child({place + 1})")
    return [float(text.replace(",", "")) for text in cells.all_inner_texts() if text != "\u2013"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", NAMES)
def test_a_page_draws_every_chart_within_its_width(opened, name, scheme) -> None:
    page = opened(name, width=WIDTHS[0], scheme=scheme)
    for width in WIDTHS:  # a window that grows redraws them
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function(FITTED)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        if folder := os.environ.get("HYPERFOCAL_SCREENSHOTS"):
            page.screenshot(path=f"{folder}/report_{name}_{width}_{scheme}.png", full_page=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colors_contrast_with_the_paper_and_follow_the_scheme(opened, scheme) -> None:
    page = opened("classify", scheme=scheme)
    paper = page.evaluate(LUMINANCE, "paper")
    assert (paper > 0.9) == (scheme == "light")
    for name in COLORS:
        dark, light = sorted((page.evaluate(LUMINANCE, name), paper))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, name
    fills = page.locator(".vega svg text").evaluate_all("all => all.map(each => getComputedStyle(each).fill)")
    assert page.evaluate("getComputedStyle(document.querySelector('.quiet')).color") in fills


def test_the_scheme_changes_the_charts_without_a_reload(opened) -> None:
    page = opened("classify")
    bar = page.locator("#groups .vega svg path[fill^='var(']").first
    before = bar.evaluate("each => getComputedStyle(each).fill")
    page.emulate_media(color_scheme="dark")
    assert bar.evaluate("each => getComputedStyle(each).fill") != before


@pytest.mark.parametrize(("name", "section"), [("classify", "labels"), ("recommend", "items")])
def test_names_are_shown_as_text(opened, name, section) -> None:
    page = opened(name)
    page.locator(f"#{section}").get_by_role("button", name="Show all").click()
    shown = first_column(page, section)
    assert {SCRIPT, IMAGE, BELL.replace("\x07", "\u2407")} <= set(shown)
    assert page.locator("img").count() == 0
    assert page.locator("body script").count() == 3


def test_documents_and_users_are_shown_as_text(opened) -> None:
    page = opened("classify")
    page.locator("#confusions summary").first.click()
    quoted = page.locator("#confusions details[open] .card").first
    assert SCRIPT in quoted.inner_text()
    assert "Document <b>0-" in quoted.inner_text()
    assert "User <i>" in opened("recommend").locator("#examples .card h3").first.inner_text()


def test_a_mark_shows_its_name_as_text(opened) -> None:
    page = opened("classify")
    marks = page.locator("#tail .vega").nth(1).locator("path[aria-roledescription=point]")
    mark = next(each for each in marks.all() if SCRIPT in each.get_attribute("aria-label"))
    width = mark.bounding_box()["width"]
    mark.hover(force=True, position={"x": 0.3 * width, "y": 0.7 * width})  # its middle may be on the frame of the chart
    assert SCRIPT in page.locator("#vg-tooltip-element.visible").inner_text()
    assert page.locator("#vg-tooltip-element script, #vg-tooltip-element img").count() == 0


def test_a_column_sorts_by_mouse_and_by_keyboard(opened) -> None:
    page = opened("classify")
    table = page.locator("#labels figure.table")
    table.get_by_role("button", name="true", exact=True).click()
    found = values(page, "labels", "true")
    assert found == sorted(found, reverse=True)
    table.get_by_role("button", name="trained", exact=True).focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    found = values(page, "labels", "trained")
    assert found == sorted(found)
    assert table.locator("th[aria-sort=ascending]").inner_text().startswith("trained")
    assert table.locator("th[aria-sort]").count() == 1


def test_rows_without_a_number_come_last_both_ways(opened) -> None:
    page = opened("recommend")
    table = page.locator("#items figure.table")
    table.get_by_role("button", name="Show all").click()
    for _ in range(2):
        table.get_by_role("button", name="recall@3").click()
        cells = table.locator("tbody tr > :nth-child(6)").all_inner_texts()
        known = [cell != "\u2013" for cell in cells]
        assert known == sorted(known, reverse=True)


def test_the_filter_keeps_the_rows_that_have_all_words(opened) -> None:
    page = opened("classify")
    page.get_by_label("Filter").fill("LABEL 1")
    expected = {name for name in LABELS if "label" in name and "1" in name}
    assert set(first_column(page, "labels")) == expected
    assert page.locator("#labels output").inner_text().endswith("rows")
    page.get_by_label("Filter").fill("no such label")
    assert first_column(page, "labels") == []


@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_the_heat_map_switches_between_metrics(opened, by) -> None:
    page = opened("grid")
    figure = page.locator("#map figure").first
    before = figure.locator("svg text").all_text_contents()
    if by == "mouse":
        figure.get_by_role("radio", name="F1, tuned thresholds").click()
    else:
        figure.get_by_role("radio").first.focus()
        page.keyboard.press("ArrowRight")
    assert figure.get_by_role("radio", name="F1, tuned thresholds").is_checked()
    texts = "[...document.querySelector('#map svg').querySelectorAll('text')].map(each => each.textContent)"
    changed = f"before => {texts}.join() != before"
    page.wait_for_function(changed, arg=",".join(before))


def test_charts_have_descriptions_for_screen_readers(opened) -> None:
    page = opened("grid")
    for svg in page.locator(".vega svg").all():
        assert svg.get_attribute("role") == "graphics-document" or svg.locator("[role^=graphics]").count()
    assert page.locator(".vega[aria-label], .vega [aria-label]").count() >= 4
    assert page.locator("figure:not(:has(figcaption))").count() == 0


def test_print_leaves_out_what_paper_cannot_do(opened) -> None:
    page = opened("classify")
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert not page.get_by_label("Filter").is_visible()
    assert page.locator("#tail svg").first.is_visible()
