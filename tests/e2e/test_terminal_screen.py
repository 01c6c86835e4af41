"""What the bar of a terminal's page offers, in a real browser: copy and paste, size, full screen, colours, search."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.e2e.browsers import Person, Screen, end, opened
from tests.e2e.terminals import Stack
from tests.waiting import until

CLIPBOARD = "navigator.clipboard.readText()"
DARK, LIGHT = "rgb(22, 24, 29)", "rgb(255, 255, 255)"


@pytest.fixture(scope="module")
def person(browser: Browser, stack: Stack) -> Iterator[Person]:
    person = Person(browser, stack.url, "olga").log_in()
    person.context.grant_permissions(["clipboard-read", "clipboard-write"])
    yield person
    person.context.close()


@pytest.fixture
def screen(person: Person) -> Iterator[Screen]:
    """A terminal without prompts and echo. At the end the browser must have had nothing to complain about."""
    screen = opened(person)
    screen.run("stty -echo; PS1=; bind 'set enable-bracketed-paste off'; clear; echo rea''dy")
    screen.shows("ready")
    yield screen
    end(screen)
    complaints, person.complaints = person.complaints, []
    assert complaints == []


def word(screen: Screen, text: str) -> Locator:
    return screen.page.locator(".xterm-rows").get_by_text(text, exact=True).last


def select(screen: Screen, text: str) -> None:
    """A word, as people do it."""
    box = word(screen, text).bounding_box()
    assert box
    screen.page.mouse.dblclick(box["x"] + 20, box["y"] + box["height"] / 2)


def test_what_is_selected_is_copied_by_key_and_by_button(screen: Screen) -> None:
    page = screen.page
    page.evaluate("navigator.clipboard.writeText('mine')")
    screen.run("clear; echo first''-word; echo second''-word; cat")
    screen.shows("second-word")
    select(screen, "first-word")
    page.keyboard.press("Control+Shift+C")
    until(lambda: page.evaluate(CLIPBOARD) == "first-word", "the key copies")
    select(screen, "second-word")
    page.get_by_role("button", name="Copy").click()
    until(lambda: page.evaluate(CLIPBOARD) == "second-word", "the button copies")
    expect(page.locator("#hint")).to_have_text("Copied.")
    expect(page.locator(".xterm-helper-textarea")).to_be_focused()
    screen.run("nothing is selected any more")
    page.keyboard.press("Control+Shift+C")
    expect(page.locator("#hint")).to_have_text("Nothing is selected.")
    assert page.evaluate(CLIPBOARD) == "second-word"
    page.keyboard.press("Control+c")  # is the program's
    screen.run("echo c''at has ended")
    screen.shows("cat has ended")


def test_what_was_copied_is_pasted_by_key_and_by_button(screen: Screen) -> None:
    page = screen.page
    page.evaluate("navigator.clipboard.writeText('pasted; grüße')")
    screen.run("cat -A")
    page.keyboard.press("Control+Shift+V")
    screen.run("")
    screen.shows("pasted; grM-CM-<M-CM-^_e$")
    page.evaluate("navigator.clipboard.writeText('two\\nlines\\n')")
    page.get_by_role("button", name="Paste").click()
    screen.shows("two$\n")
    screen.shows("lines$\n")
    page.keyboard.press("Control+d")


def size(screen: Screen) -> list[int]:
    """Rows and columns, as the programs in it know them."""
    mark = f"told {time.monotonic_ns()}"
    screen.run(f"clear; stty size; echo {mark}")
    screen.shows(mark)
    return [int(number) for number in screen.text.split(mark)[0].split()]


def test_text_is_made_larger_and_smaller_and_stays_so(screen: Screen) -> None:
    page = screen.page

    def pixels() -> float:
        return float(page.locator(".xterm-rows").evaluate("rows => parseFloat(getComputedStyle(rows).fontSize)"))

    before, size_before = pixels(), size(screen)
    for _ in range(6):
        page.get_by_role("button", name="Larger text").click()
    assert pixels() == before + 6
    until(lambda: all(now < then for now, then in zip(size(screen), size_before, strict=True)), "programs are told")
    page.reload()
    screen.is_connected()
    assert pixels() == before + 6
    for _ in range(7):
        page.get_by_role("button", name="Smaller text").click()
    assert pixels() == before - 1
    for _ in range(50):
        page.get_by_role("button", name="Smaller text").click()
    assert pixels() == 8
    for _ in range(6):
        page.get_by_role("button", name="Larger text").click()
    assert pixels() == before
    # xterm.js fits to whole columns by the width of those it has: one more or less.
    until(lambda: all(abs(n - b) <= 1 for n, b in zip(size(screen), size_before, strict=True)), "it is as it was")


def test_underscores_are_seen_in_every_size(screen: Screen) -> None:
    page = screen.page
    screen.run("clear; echo ____; echo; cat")
    line = page.locator(".xterm-rows > div").first
    expect(line).to_have_text("____")
    page.get_by_role("button", name="Smaller text").click(click_count=6)
    for pixels in range(8, 25):
        expect(page.locator(".xterm-rows")).to_have_css("font-size", f"{pixels}px")
        box = line.bounding_box()
        assert box
        # Of the same size, so nothing but what is drawn makes them differ.
        place = {"x": box["x"], "width": box["height"] * 2, "height": box["height"] + 2}
        line_at, blank_at = box["y"], box["y"] + 4 * box["height"]  # the cursor is in the third line
        drawn, blank = (page.screenshot(clip={**place, "y": y}) for y in (line_at, blank_at))
        assert drawn != blank, f"{pixels} px"
        page.get_by_role("button", name="Larger text").click()
    page.get_by_role("button", name="Smaller text").click(click_count=11)
    page.keyboard.press("Control+d")


def test_full_screen_and_back(screen: Screen) -> None:
    page = screen.page
    button = page.get_by_role("button", name="Full screen")
    button.click()
    until(lambda: page.evaluate("document.fullscreenElement !== null"), "it is full")
    expect(page.locator(".xterm-helper-textarea")).to_be_focused()
    screen.run("echo shown in fu''ll")
    screen.shows("shown in full")
    button.click()
    until(lambda: page.evaluate("document.fullscreenElement === null"), "it is not")


def test_light_and_dark_as_the_system_is_or_as_one_wants(screen: Screen) -> None:
    page = screen.page
    page.emulate_media(color_scheme="light")

    def is_(colour: str, text: str) -> None:
        """Behind the text, around it, and in the rest of the page."""
        for part in (".xterm-scrollable-element", "main#screen"):
            expect(page.locator(part).first).to_have_css("background-color", colour)
        expect(page.locator(".xterm-rows").first).to_have_css("color", text)

    screen.run("clear; echo some''thing")
    screen.shows("something")
    is_(LIGHT, "rgb(31, 35, 40)")
    page.emulate_media(color_scheme="dark")
    is_(DARK, "rgb(228, 230, 234)")
    page.get_by_label("Colours").select_option("light")
    is_(LIGHT, "rgb(31, 35, 40)")
    page.reload()
    screen.is_connected()
    is_(LIGHT, "rgb(31, 35, 40)")
    page.emulate_media(color_scheme="light")
    page.get_by_label("Colours").select_option("dark")
    is_(DARK, "rgb(228, 230, 234)")
    page.get_by_label("Colours").select_option("system")
    is_(LIGHT, "rgb(31, 35, 40)")


def test_a_screen_reader_is_told_what_is_printed(screen: Screen) -> None:
    page = screen.page
    page.get_by_label("Screen reader").check()
    said = page.locator(".xterm-accessibility [aria-live]")
    screen.run("echo $((111 * 9))")
    expect(said).to_contain_text("999")
    expect(page.locator(".xterm-accessibility").get_by_role("listitem").filter(has_text="999")).to_have_count(1)
    screen.run("echo $((111 * 8))")
    expect(said).to_contain_text("888")
    expect(said).not_to_contain_text("999")  # which would be read out again
    page.reload()
    screen.is_connected()
    screen.run("echo $((111 * 7))")
    expect(said).to_contain_text("777")
    page.get_by_label("Screen reader").uncheck()
    expect(said).to_have_count(0)


def test_what_is_on_the_screen_and_above_it_is_searched(screen: Screen) -> None:
    page = screen.page
    screen.run("clear; for i in $(seq 200); do echo line $i; done; echo en''d")
    screen.shows("end")
    box, found = page.get_by_label("Search", exact=True), page.locator("#search .found")
    page.keyboard.press("Control+Shift+F")
    expect(box).to_be_focused()
    page.keyboard.type("line 10")  # and 100 to 109
    expect(found).to_have_text(re.compile(r"^\d+ of 11$"))
    places = {found.inner_text()}
    for _ in range(10):
        before = found.inner_text()
        page.keyboard.press("Enter")
        expect(found).not_to_have_text(before)
        places.add(found.inner_text())
    assert places == {f"{number} of 11" for number in range(1, 12)}
    here = found.inner_text()
    page.get_by_role("button", name="Next").click()
    expect(found).not_to_have_text(here)
    page.get_by_role("button", name="Previous").click()
    expect(found).to_have_text(here)
    box.fill("line 42")
    screen.shows("line 42\n")  # it was scrolled out of sight
    expect(found).to_have_text("1 of 1")
    box.fill("nowhere at all")
    expect(found).to_have_text("Nothing found.")
    box.fill("line 200")
    expect(found).to_have_text("1 of 1")
    screen.run("echo line 200")
    expect(found).to_have_text(re.compile("of 2$"))  # what comes later is found as well
    box.focus()
    page.keyboard.press("Escape")
    expect(page.locator("#search")).to_be_hidden()
    screen.run("echo it is ty''ped again")
    screen.shows("it is typed again")
