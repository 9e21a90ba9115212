"""The browser itself: it runs scripts, and the watch sees what goes wrong."""

from __future__ import annotations


def test_a_page_runs_its_scripts_and_its_errors_are_seen(watched) -> None:
    watched.page.set_content("<p id=p></p><script>document.getElementById('p').textContent = 6 * 7; nowhere()</script>")
    assert watched.page.inner_text("#p") == "42"
    assert len(watched.errors) == 1
    assert "nowhere is not defined" in watched.errors[0]
