"""The page of the service in a real Chromium, against a real service: typed, clicked and looked at.

With HYPERFOCAL_SCREENSHOTS=FOLDER the screenshots are saved there. README shows the light ones of width 1280:

    HYPERFOCAL_SCREENSHOTS=shots python -m pytest tests/browser/test_service_page.py -k edge

except for the page of a text, which shows a run on Debtags in the same window.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from serve_cases import ITEMS, RIGHT_TO_LEFT, SCRIPT, classify_run, recommend_run, service

WIDTHS = (390, 820, 1280)


@pytest.fixture(scope="module")
def classifying(chromium, tmp_path_factory):
    with service(classify_run(tmp_path_factory.mktemp("page") / "drinks")) as running:
        yield running


@pytest.fixture(scope="module")
def recommending(chromium, tmp_path_factory):
    with service(recommend_run(tmp_path_factory.mktemp("page") / "courses", epochs=40)) as running:
        yield running


def opened(watched, running):
    watched.page.goto(running.address)
    watched.page.wait_for_selector("main.two")
    return watched.page


def clean(watched, running):
    """No error in the console, no request to anywhere else, nothing kept, and no script of a name has run."""
    assert watched.errors == []
    assert {urlsplit(address).netloc for address in watched.requests} == {urlsplit(running.address).netloc}
    kept = "[localStorage.length, sessionStorage.length, document.cookie]"
    assert watched.page.evaluate(kept) == [0, 0, ""]
    assert "taken" not in watched.page.title()


def test_a_text_is_classified_as_it_is_typed(watched, classifying):
    page = opened(watched, classifying)
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.type("old red wine")
    page.wait_for_selector("#scores li.yes")
    assert {"Wine", "Red wine"} <= set(page.locator("#decided .chip").all_inner_texts())
    assert "Food and drink > Wine > Red wine · 3" in page.inner_text("#scores")
    assert f"Food and drink > {SCRIPT}" in page.inner_text("#scores")
    assert "wine" in page.locator("#words mark:not(.against)").all_inner_texts()
    assert page.inner_text("#words") == "old red wine"
    clean(watched, classifying)


def test_a_text_of_which_the_model_knows_no_part_gets_a_note(watched, classifying):
    page = opened(watched, classifying)
    page.fill("#text", "xyzzy plugh")
    page.wait_for_selector("#status:has-text('the model knows no n-gram or word of this text')")
    assert page.locator("#scores li").count() == 8
    page.fill("#text", "red wine")
    page.wait_for_selector("#words mark")
    assert "knows no n-gram" not in page.inner_text("#status")
    page.fill("#text", " ")
    page.wait_for_selector("#decided:has-text('Labels appear')")
    assert page.inner_text("#status") == ""
    clean(watched, classifying)


def test_the_threshold_policy_changes_what_is_decided(watched, classifying):
    page = opened(watched, classifying)
    page.fill("#text", "dark beer")
    page.wait_for_selector("#scores li.yes")
    page.focus("#policy")
    page.select_option("#policy", "own")
    page.fill("#own", "1")
    page.wait_for_selector("#decided:has-text('No label exceeds')")
    assert page.locator("#scores li.yes").count() == 0
    page.fill("#own", "0")
    count(page, "#scores li.yes", 8)
    page.fill("#text", "")
    page.wait_for_selector("#decided:has-text('Labels appear')")
    clean(watched, classifying)


def test_what_is_typed_is_text_and_words_beyond_the_first_plane_stay_whole(watched, classifying):
    page = opened(watched, classifying)
    typed = f"\U0001f377 {SCRIPT} wine <img src=x onerror=document.title='taken'> {RIGHT_TO_LEFT}"
    page.fill("#text", typed)
    page.wait_for_selector("#words mark")
    assert page.inner_text("#words") == typed
    assert page.locator("mark", has_text="wine").inner_text() == "wine"
    assert page.locator("#main img, #main script").count() == 0
    clean(watched, classifying)


def test_an_old_answer_that_comes_late_is_dropped(watched, classifying):
    page = opened(watched, classifying)
    late = []

    def hold(route):
        if "beer" in route.request.post_data:
            late.append(route)
        else:
            route.continue_()

    page.route("**/v1/classify", hold)
    page.fill("#text", "dark beer")
    while not late:
        page.wait_for_timeout(20)
    page.fill("#text", "red wine")
    page.wait_for_selector("#words:has-text('red wine')")
    with page.expect_response("**/v1/classify"):
        late[0].continue_()
    page.wait_for_timeout(100)
    assert page.inner_text("#words") == "red wine"
    clean(watched, classifying)


def test_a_history_is_built_and_reordered_with_the_keyboard_alone(watched, recommending):
    page = opened(watched, recommending)
    page.wait_for_selector("#next li")
    page.focus("#search")
    for wanted in ("Algebra", "Geometry", "script"):
        page.keyboard.type(wanted)
        page.wait_for_selector("#found li[aria-selected=true]")
        page.wait_for_selector(f"#found li:first-child:has-text('{wanted}')")
        page.keyboard.press("Enter")
    assert names(page) == ["Algebra", "Geometry", SCRIPT]
    page.keyboard.press("Tab")  # to the first item
    assert page.evaluate("document.activeElement.tagName") == "LI"
    page.keyboard.press("Alt+ArrowDown")
    assert names(page) == ["Geometry", "Algebra", SCRIPT]
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Delete")
    assert names(page) == ["Algebra", SCRIPT]
    count(page, "#next li", 10)
    assert page.evaluate("document.activeElement.closest('#history') !== null")
    clean(watched, recommending)


def test_buttons_do_what_keys_do(watched, recommending):
    page = opened(watched, recommending)
    page.wait_for_selector("#next li")
    first = page.inner_text("#next li:first-child bdi")
    page.click("#next li:first-child .add")
    count(page, "#next li", 10)
    page.fill("#search", RIGHT_TO_LEFT)
    page.click("#found li")
    page.get_by_label(f"Move {RIGHT_TO_LEFT} up").click()
    assert names(page) == [RIGHT_TO_LEFT, first]
    page.get_by_label(f"Remove {RIGHT_TO_LEFT}").click()
    assert names(page) == [first]
    page.fill("#k", "3")
    count(page, "#next li", 3)
    clean(watched, recommending)


def test_rules_reasons_and_similar_items(watched, recommending):
    page = opened(watched, recommending)
    page.fill("#search", ITEMS[3])
    page.click("#found li")
    page.click("#rules summary")
    page.fill("#k", str(len(ITEMS)))
    count(page, "#next li", len(ITEMS) - 1)
    page.fill("#filters", "topic = art")
    count(page, "#next li", len(ITEMS) // 2 - 1)
    shown = page.locator("#next li .name > bdi:first-child").all_inner_texts()
    assert set(shown) <= {item for place, item in enumerate(ITEMS) if place % 2}
    page.select_option("#per", "topic")
    page.fill("#most", "1")
    count(page, "#next li", 1)
    assert page.inner_text("#status") == "1 next item; no more items may be recommended."
    page.fill("#filters", "")
    count(page, "#next li", 2)
    page.check("#explain")
    page.wait_for_selector(f"#next .path:text-is('because of {ITEMS[3]}')")
    page.get_by_label(re.compile("Show items similar to")).first.click()
    count(page, "#similar li", 5)
    page.fill("#filters", "topic < art")
    page.wait_for_selector("#status.wrong")
    assert "filters: column 'topic' holds texts, which < cannot compare" in page.inner_text("#status")
    page.fill("#filters", "")
    watched.errors.clear()  # Chromium reports the refusal as an error
    clean(watched, recommending)


def count(page, selector, number):
    """Wait until so many elements are there; the page's policy forbids to wait for an expression."""
    page.wait_for_selector(f":nth-match({selector}, {number})")
    page.wait_for_selector(f":nth-match({selector}, {number + 1})", state="detached")


def names(page):
    return page.locator("#history .name").all_inner_texts()


def test_the_page_asks_for_the_key_and_forgets_it(watched, tmp_path):
    with service(classify_run(tmp_path / "drinks"), key="open sesame") as running:
        watched.page.goto(running.address)
        watched.page.fill("#key", "wrong")
        watched.page.keyboard.press("Enter")
        watched.page.wait_for_selector("#status.wrong")
        watched.page.fill("#key", "open sesame")
        watched.page.keyboard.press("Enter")
        watched.page.wait_for_selector("#text")
        watched.errors.clear()  # the browser itself reports each 401
        clean(watched, running)
        watched.page.reload()
        watched.page.wait_for_selector("#key")


def test_docs_draw_every_route_and_load_nothing_from_elsewhere(watched, classifying):
    watched.page.goto(classifying.address + "/docs")
    watched.page.wait_for_selector("section h1:has-text('/v1/classify')")
    text = watched.page.inner_text("#main")
    for route in ("/v1/recommend", "/v1/model", "/v1/reload", "/health", "/ready", "/metrics"):
        assert route in text
    clean(watched, classifying)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_runs_over_the_edge(watched, classifying, recommending, tmp_path, width, scheme):
    folder = Path(os.environ.get("HYPERFOCAL_SCREENSHOTS", tmp_path))
    watched.page.set_viewport_size({"width": width, "height": 760})
    watched.page.emulate_media(color_scheme=scheme)
    for running, name in ((classifying, "classify"), (recommending, "recommend")):
        page = opened(watched, running)
        fill_in(page, name)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.screenshot(path=folder / f"{name}_{width}_{scheme}.png")
    assert watched.errors == []


def fill_in(page, name):
    if name == "classify":
        page.fill("#text", "A dry red wine of a great year, with bread and hard cheese")
        page.wait_for_selector("#words mark")
        return
    for wanted in ("Algebra", "Geometry", "Calculus"):
        page.fill("#search", wanted)
        page.click(f"#found li:has-text('{wanted}')")
    page.wait_for_selector("#next li:first-child")
    page.wait_for_timeout(400)
