"""A headless Chromium on the pages of a real server: what a person sees of a terminal, and what the browser itself
complains about."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, sync_playwright

from tests.e2e.terminals import NODE

SECONDS = 30
# The text on the screen. Rows are DOM elements, wide characters and styles are spans in them.
TEXT = "() => [...document.querySelectorAll('.xterm-rows > div')].map(row => row.textContent.trimEnd()).join('\\n')"


@contextmanager
def chromium() -> Iterator[Browser]:
    """While it runs no other test of this thread can use asyncio."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("No chromium is installed (make browser).")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Person:
    """Somebody with a browser of their own. `complaints`: what the browser refused, or a script raised; `foreign`: what
    it asked of anybody but our server."""

    def __init__(self, browser: Browser, url: str, name: str) -> None:
        self.url, self.name = url, name
        self.complaints: list[str] = []
        self.foreign: list[str] = []
        self.context: BrowserContext = browser.new_context(base_url=url, viewport={"width": 1000, "height": 640})
        self.context.set_default_timeout(SECONDS * 1000)
        self.context.on("request", self._requested)
        self.page = self.new_page()

    def new_page(self) -> Page:
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        return page

    def log_in(self, next: str = "/terminal/") -> Person:
        self.page.goto(f"/login/?next={next}")
        self.page.get_by_label("User name").fill(self.name)
        self.page.get_by_label("Password").fill("secret-" + self.name)
        self.page.get_by_role("button", name="Log in").click()
        self.page.wait_for_url(f"**{next}")
        return self

    def _requested(self, request: Request) -> None:
        if not request.url.startswith((self.url, self.url.replace("http", "ws", 1), "data:")):
            self.foreign.append(request.url)


class Screen:
    """A page with a terminal."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.session = page.url.rstrip("/").rpartition("/")[2]

    @property
    def text(self) -> str:
        return str(self.page.evaluate(TEXT))

    def is_connected(self) -> None:
        self.page.wait_for_selector("body[data-state=connected]")

    def shows(self, text: str, seconds: float = SECONDS) -> None:
        try:
            self.page.wait_for_function(f"text => ({TEXT})().includes(text)", arg=text, timeout=seconds * 1000)
        except Exception as error:
            status = self.page.locator("#status").inner_text()
            raise AssertionError(f"{text!r} is not on the screen ({status}):\n{self.text}") from error

    def type(self, text: str) -> None:
        self.page.locator(".xterm-helper-textarea").focus()
        self.page.keyboard.type(text)

    def run(self, line: str) -> None:
        self.type(line)
        self.page.keyboard.press("Enter")


def opened(person: Person) -> Screen:
    """A terminal of this person, the way they open one."""
    page = person.page
    page.goto("/terminal/")
    page.get_by_role("listitem").filter(has_text=NODE).get_by_role("link", name="Open a terminal").click()
    page.get_by_role("button", name="Open a terminal").click()
    screen = Screen(page)
    screen.is_connected()
    return screen


def end(screen: Screen) -> None:
    screen.page.once("dialog", lambda dialog: dialog.accept())
    screen.page.get_by_role("button", name="End", exact=True).click()
    screen.page.wait_for_selector("body[data-state=ended]")
