"""Recordings, played in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from playwright.sync_api import Browser, expect

from tests.e2e.browsers import Person, Screen, end, opened
from tests.e2e.terminals import NODE, Stack
from tests.waiting import until


@pytest.fixture(scope="module")
def signed_in(browser: Browser, stack: Stack) -> Iterator[Person]:
    person = Person(browser, stack.url, "olga").log_in()
    yield person
    person.context.close()


@pytest.fixture
def olga(signed_in: Person) -> Iterator[Person]:
    """The owner of the node. At the end her browser must have had nothing to complain about."""
    yield signed_in
    complaints, signed_in.complaints = signed_in.complaints, []
    assert complaints == []


def test_a_recording_plays_seeks_and_is_searched(olga: Person, stack: Stack) -> None:
    screen = opened(olga)
    screen.run("PS1=; stty -echo; clear; for i in $(seq 300); do echo line $i; done; clear; sleep 3; echo the e''nd")
    screen.shows("the end")
    session = screen.session
    end(screen)
    page = olga.page
    page.goto("/terminal/")
    row = page.locator(f'li:has(a[href="/terminal/{session}/recording"])')
    row.get_by_role("link", name="Play").click()
    page.get_by_label("Speed").fill("50")
    played = Screen(page)
    played.shows("the end")
    assert "line 300" not in played.text
    page.get_by_role("button", name="Search").click()
    page.get_by_label("Search", exact=True).fill("line 300")
    page.keyboard.press("Enter")
    played.shows("line 300")
    expect(page.locator("#hint")).to_contain_text("Number 1 of the 1 places")
    expect(page.locator("#search .found")).to_have_text("1 of 1")
    page.get_by_label("Position").fill("0")
    until(lambda: "line 300" not in played.text, "the screen is that of the beginning")
    page.get_by_role("button", name="Play", exact=True).click()
    played.shows("the end")
    with page.expect_download() as downloading:
        page.get_by_role("link", name="Download").click()
    assert re.match(rb'\{"version":3', Path(downloading.value.path()).read_bytes())
    with psycopg.connect(stack.env["DATABASE_URL"]) as database:
        audited = "SELECT count(*) FROM terminal_auditevent WHERE session = %s AND what = 'recording_read'"
        assert database.execute(audited, [session]).fetchone() == (2,)


@pytest.fixture
def play(olga: Person, stack: Stack) -> Iterator[Callable[..., None]]:
    """Opens the page of a recording that has these events; afterwards it is again as it was sealed."""
    screen = opened(olga)
    screen.run("exit")
    screen.page.wait_for_selector("body[data-state=ended]")
    until(lambda: stack.session(screen.session)["state"] == "ended", "the end is known")
    path = Path(stack.env["CYXWIZ_HOME"]) / "recordings" / f"{screen.session}.cast"
    until(lambda: b'"x"' in path.read_bytes()[-300:], "the recording is whole")
    sealed = path.read_bytes()

    def play(*events: tuple[float, str, str], cols: int = 80) -> None:
        lines = ({"version": 3, "term": {"cols": cols, "rows": 24}}, *events)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        olga.page.goto(f"/terminal/{screen.session}/recording")

    yield play
    path.write_bytes(sealed)


def test_the_end_of_a_large_recording_is_reached_and_searched(olga: Person, play: Callable[..., None]) -> None:
    page, line = olga.page, (0.01, "o", ("x" * 78 + "\r\n") * 400)
    first, last = [(0.01, "o", "the first words"), (1, "r", "100x30")], [(0.5, "o", "words"), (0.1, "x", "0")]
    large = 60_000_000 // len(json.dumps(line))
    play(*first, *[line] * large, (0.5, "o", "\x1b[2J\x1b[Hthe last "), *last)
    page.get_by_role("button", name="Pause").click()
    played, position = Screen(page), page.get_by_label("Position")
    end_of_it = position.get_attribute("max") or ""
    position.fill(end_of_it)
    expect(page.locator("#status")).to_contain_text("%")
    position.fill("0.5")  # which is not kept waiting
    expect(page.locator("#status")).to_have_text(re.compile("^00:00 of"))
    until(lambda: played.text.strip() == "the first words", "it shows the beginning")
    position.fill(end_of_it)
    played.shows("the last words", 60)
    assert "x" not in played.text
    page.get_by_role("button", name="Search").click()
    page.get_by_label("Search", exact=True).fill("the last")
    page.keyboard.press("Enter")
    expect(page.locator("#hint")).to_contain_text("Number 1 of the 1 places", timeout=60_000)
    until(lambda: played.text.strip() == "the last", "it shows no more than that")


def test_sizes_that_no_screen_can_draw_are_not_drawn(olga: Person, play: Callable[..., None]) -> None:
    sizes = [(0.01, "r", size) for size in ("65535x65535", "0x0", "-1x-1", "1e9x1e9", "nonsense", "", "80.5x24.5")]
    play(*sizes, (0.01, "o", "after all that"), (0.01, "x", "0"), cols=65535)
    played = Screen(olga.page)
    played.shows("after all that")
    expect(olga.page.locator(".xterm-rows > div")).to_have_count(24)


def test_a_recording_before_anybody_was_attached_says_so(olga: Person, stack: Stack) -> None:
    session = stack.open()["id"]
    path = Path(stack.env["CYXWIZ_HOME"]) / "recordings" / f"{session}.cast"
    until(path.exists, "the recorder waits for it")
    olga.page.goto(f"/terminal/{session}/recording")
    expect(olga.page.locator("#status")).to_have_text("Nothing is recorded yet.")


def test_of_what_never_began_no_recording_is_offered(olga: Person, stack: Stack) -> None:
    policy = f"/api/v1/terminal/nodes/{NODE}/policy"
    with stack.api() as api:
        api.patch(policy, json={"approval_required": True}).raise_for_status()
        try:
            session = api.post("/api/v1/terminal/sessions/", json={"node": NODE}).json()["id"]
            olga.page.goto(f"/terminal/{session}/")
            expect(olga.page.locator("#status")).to_contain_text("Waits for approval")
            api.post(f"/api/v1/terminal/sessions/{session}/end").raise_for_status()
        finally:
            api.patch(policy, json={"approval_required": False}).raise_for_status()
    expect(olga.page.locator("#status")).to_contain_text("This terminal has ended.")
    expect(olga.page.locator("body")).to_have_attribute("data-state", "ended")
    for offer in ("#again", "#recording"):
        expect(olga.page.locator(offer)).to_be_hidden()
    olga.complaints.clear()  # of the ticket that there was not


def test_the_search_says_the_same_in_its_box_and_beside_it(olga: Person, play: Callable[..., None]) -> None:
    clear, page = "\x1b[2J\x1b[H", olga.page
    shown = ("here", clear + "not this", clear + "here again", clear + "the end")
    play(*((0.1, "o", text) for text in shown))
    Screen(page).shows("the end")
    page.get_by_role("button", name="Search").click()
    box, found, hint = page.get_by_label("Search", exact=True), page.locator("#search .found"), page.locator("#hint")
    box.fill("here")
    expect(found).to_have_text("")  # that the screen has none says nothing of the recording
    for key, number in (("Enter", 1), ("Enter", 2), ("Shift+Enter", 1), ("Shift+Enter", 2)):
        page.keyboard.press(key)
        expect(hint).to_have_text(f"Number {number} of the 2 places where it was shown.")
        expect(found).to_have_text(f"{number} of 2")
    expect(page.locator(".xterm-find-result-decoration")).not_to_have_count(0)
    page.get_by_role("button", name="Previous").click()
    expect(found).to_have_text("1 of 2")
    box.fill("nowhere")
    page.keyboard.press("Enter")
    expect(found).to_have_text("Nothing found.")
    expect(hint).to_have_text("“nowhere” was not shown.")


def test_a_recording_is_played_as_fast_as_wanted(olga: Person, play: Callable[..., None]) -> None:
    page = olga.page
    play((0.01, "o", "begun"), (3600, "o", " and ended"), (0.1, "x", "0"))
    played, position = Screen(page), page.get_by_label("Position")
    page.get_by_label("Skip pauses").uncheck()

    def seconds_in_a_second(speed: str) -> float:
        """How far it gets, by the browser's clock."""
        page.get_by_label("Speed").fill(speed)
        return float(
            position.evaluate(
                """async (bar) => {
                    const frame = () => new Promise(requestAnimationFrame);
                    const [from, begun] = [Number(bar.value), await frame()];
                    let at;
                    do at = await frame(); while (at - begun < 500);
                    return (Number(bar.value) - from) / ((at - begun) / 1000);
                }"""
            )
        )

    played.shows("begun")
    position.fill("0")
    for speed in ("1", "20", "0.5"):
        assert seconds_in_a_second(speed) == pytest.approx(float(speed), rel=0.5)
    assert "ended" not in played.text
    page.get_by_label("Speed").fill("1000")
    played.shows("begun and ended")
