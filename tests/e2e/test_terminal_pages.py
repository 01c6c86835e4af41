"""The terminal in a real browser, with real programs on a real node."""

from __future__ import annotations

import hashlib
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, WebSocketRoute, expect

from tests.e2e.browsers import Person, Screen, end, opened
from tests.e2e.quickstarts import PROJECT
from tests.e2e.terminals import NODE, Stack
from tests.e2e.test_terminal_command import command, env
from tests.e2e.test_terminal_ssh import newest
from tests.storms import BUSIEST, DOWN_SECONDS, busiest_second, tries
from tests.waiting import until


@pytest.fixture(scope="module")
def signed_in(browser: Browser, stack: Stack) -> Iterator[dict[str, Person]]:
    """One browser for each, and rights on the node but for Eve."""
    with stack.api() as api:
        for name, role in {"otto": "observer", "tom": "operator"}.items():
            api.post(f"/api/v1/terminal/nodes/{NODE}/grants/", json={"user": name, "role": role})
    people = {name: Person(browser, stack.url, name).log_in() for name in ("olga", "otto", "eve")}
    yield people
    for person in people.values():
        person.context.close()


@pytest.fixture
def olga(signed_in: dict[str, Person]) -> Iterator[Person]:
    """The owner of the node. At the end her browser must have had nothing to complain about."""
    olga = signed_in["olga"]
    yield olga
    complaints, olga.complaints = olga.complaints, []
    assert complaints == []
    assert olga.foreign == []


def needs(*programs: str) -> None:
    if not all(map(shutil.which, programs)):
        pytest.skip(f"{' or '.join(programs)} is not installed (make browser).")


def test_what_is_typed_comes_back_and_the_end_is_told(olga: Person) -> None:
    screen = opened(olga)
    screen.run("echo $((6*7))-is-the-answer")
    screen.shows("42-is-the-answer")
    screen.run("exit 3")
    expect(screen.page.locator("#status")).to_have_text("The shell has ended with status 3.")
    screen.page.get_by_role("link", name="Play the recording").click()
    screen.shows("42-is-the-answer")


def test_utf8_split_anywhere_and_wide_characters(olga: Person, tmp_path: Path) -> None:
    text = "grüße 漢字 🙂 Ω"
    program = tmp_path / "split.py"
    program.write_text(
        "import os, time\n"
        f"for byte in {text!r}.encode(): os.write(1, bytes([byte])); time.sleep(0.01)\n"
        # The column where the cursor is after characters of two columns each, as the terminal itself tells.
        "import sys, termios, tty\n"
        "kept = termios.tcgetattr(0); tty.setraw(0); told = b''\n"  # which drops what was typed before
        "os.write(1, '\\r\\n漢字🙂\\x1b[6n'.encode())\n"
        "while not told.endswith(b'R'): told += os.read(0, 1)\n"
        "termios.tcsetattr(0, termios.TCSANOW, kept)\n"
        "print('\\r\\ncolumn', told.decode()[2:-1].split(';')[1])\n"
    )
    screen = opened(olga)
    screen.run(f"stty -echo; clear; python3 {program}")
    screen.shows(text)
    screen.shows("column 7")
    end(screen)


def test_a_paste_of_200_kib_arrives_whole_and_once(olga: Person, stack: Stack) -> None:
    paste = "".join(random.Random(3).choices("abcdefghijklmnopqrstuvwxyz ", k=200 * 1024))
    olga.context.grant_permissions(["clipboard-read", "clipboard-write"])
    screen = opened(olga)
    screen.run("stty raw -echo; echo REA''DY; head -c 204800 | sha256sum; head -c 2 | od -c; stty sane; echo DO''NE")
    screen.shows("READY")
    screen.page.evaluate("text => navigator.clipboard.writeText(text)", paste)
    screen.page.get_by_role("button", name="Paste").click()
    screen.shows(hashlib.sha256(paste.encode()).hexdigest())
    screen.type("zq")  # and nothing of the paste stands before that
    screen.shows("z   q")
    screen.shows("DONE")
    end(screen)


def test_a_paste_of_4_mib_arrives_whole_and_ctrl_c_after_it(olga: Person) -> None:
    paste = "".join(random.Random(4).choices("abcdefghijklmnopqrstuvwxyz ", k=4 << 20))
    olga.context.grant_permissions(["clipboard-read", "clipboard-write"])
    screen = opened(olga)
    screen.run(f"stty raw -echo; echo REA''DY; head -c {len(paste)} | sha256sum; head -c 1 | od -c; stty sane")
    screen.shows("READY")
    screen.page.evaluate("text => navigator.clipboard.writeText(text)", paste)
    screen.page.get_by_role("button", name="Paste").click()
    expect(screen.page.locator(".xterm-helper-textarea")).to_be_focused()  # once it is pasted
    screen.page.keyboard.press("Control+c")
    screen.shows(hashlib.sha256(paste.encode()).hexdigest())
    screen.shows("0000000 003")
    screen.run("echo a''live")
    screen.shows("alive")
    end(screen)


def test_a_page_that_was_cut_off_offers_to_come_again_while_the_shell_lives(olga: Person) -> None:
    sockets: list[WebSocketRoute] = []

    def passed_on(socket: WebSocketRoute) -> None:
        socket.connect_to_server()
        sockets.append(socket)

    address = opened(olga).page.url
    olga.page.goto("/terminal/")
    # On a page of its own: Playwright stays between it and its sockets, and complains there of races of its own.
    with olga.context.new_page() as page:
        page.route_web_socket(re.compile("/ws/terminal/"), passed_on)
        again = page.get_by_role("button", name="Open here")
        for code in (4408, 1009, 4400, 4403):
            page.goto(address)
            screen = Screen(page)
            screen.is_connected()
            sockets[-1].close(code=code, reason="Cut off.")
            expect(again).to_be_visible()
        again.click()
        screen.is_connected()
        screen.run("echo a''live")
        screen.shows("alive")
        end(screen)
        page.wait_for_load_state("networkidle")
        expect(again).to_be_hidden()


def test_many_pages_that_were_cut_off_at_once_do_not_come_at_once_and_are_soon_back(olga: Person) -> None:
    olga.page.goto("/terminal/")
    program = """async () => {
        const { pauseAfter } = await import("/static/terminal/connection.js");
        return [0, 1, 9].map((failures) => Array.from({ length: 5000 }, () => pauseAfter(failures) / 1000));
    }"""
    drawn = olga.page.evaluate(program)
    for down_seconds in DOWN_SECONDS:
        made = tries(lambda failures: random.choice(drawn[min(failures, 2)]), down_seconds)
        assert busiest_second(made) < BUSIEST
        assert max(made) <= down_seconds + 10


def test_a_key_has_a_page_come_again_at_once_but_only_once(olga: Person) -> None:
    olga.page.goto("/terminal/")
    program = """async () => {
        const { Connection } = await import("/static/terminal/connection.js");
        let tries = 0;
        const newTicket = () => Promise.reject(new Error("away"));
        const connection = new Connection({ newTicket, tell: { connecting: () => tries++, waiting() {} } });
        await connection.open();
        const counted = [tries];
        for (const key of [1, 2, 3]) {
            connection.type(new Uint8Array([key]));
            await new Promise((done) => setTimeout(done));
            counted.push(tries);
        }
        return counted;
    }"""
    assert olga.page.evaluate(program) == [1, 2, 2, 2]


def test_vim_goes_on_over_a_killed_web_process(olga: Person, stack: Stack, tmp_path: Path) -> None:
    needs("vim")
    screen = opened(olga)
    screen.run(f"vim -u NONE -N {tmp_path / 'file'}")
    screen.shows("[New]")
    screen.type("ibefore the web process died. ")
    screen.shows("before the web process died.")
    screen.shows("-- INSERT --")
    stack.kill("web")
    screen.page.wait_for_selector("body[data-state=waiting]")
    expect(screen.page.locator("#status")).to_contain_text("Trying again in")
    meanwhile = "typed meanwhile. " * 40  # more keys than a server takes frames in a second
    screen.type(meanwhile)
    stack.start_web()
    screen.is_connected()
    screen.type("and after.")
    screen.shows("before the web process died. typed meanwhile.")
    screen.shows("and after.")
    screen.page.keyboard.press("Escape")
    screen.run(":wq")
    until(lambda: (tmp_path / "file").exists(), "vim has written")
    assert (tmp_path / "file").read_text() == f"before the web process died. {meanwhile}and after.\n"
    end(screen)
    # What Chromium says of a server that is not there.
    olga.complaints = [said for said in olga.complaints if "ERR_CONNECTION_REFUSED" not in said]


def test_a_reloaded_page_shows_the_same_and_answers_no_old_question(olga: Person, tmp_path: Path) -> None:
    screen = opened(olga)
    asker = tmp_path / "ask.sh"
    # Without echo from the first question on: the answers may come before `read` has begun.
    asker.write_text("stty -echo; printf '\\033[c\\033[6n'; read -rsd R -t 20 answer; stty echo; echo answered\n")
    screen.run(f"PS1=; clear; bash {asker}; cat -v")
    screen.shows("answered")
    screen.page.reload()
    screen.is_connected()
    screen.shows("answered")
    screen.run("only this")
    screen.shows("only this\nonly this")  # typed, and said again by cat
    assert "^[" not in screen.text
    end(screen)


def test_a_storm_of_questions_is_answered_once_and_by_the_owner_only(
    olga: Person, signed_in: dict[str, Person], tmp_path: Path
) -> None:
    asker = tmp_path / "storm.py"
    asker.write_text(
        "import os, sys, termios, tty\n"
        "kept = termios.tcgetattr(0); tty.setraw(0)\n"
        "for number in range(1000): os.write(1, b'\\x1b[c\\x1bP$qm\\x1b\\\\')\n"
        "os.write(1, b'\\x1b[6n')\n"  # its answer is the last
        "told = b''\n"
        "while not told.endswith(b'R'): told += os.read(0, 65536)\n"
        "termios.tcsetattr(0, termios.TCSANOW, kept)\n"
        "print(told.count(b'\\x1b[?1;2c'), 'and', told.count(b'\\x1bP1$r'), 'answers')\n"
    )
    screen = opened(olga)
    otto = signed_in["otto"]
    otto.page.goto(f"/terminal/{screen.session}/")
    watching = Screen(otto.page)
    watching.is_connected()
    screen.run(f"PS1=; clear; python3 {asker}; cat -v")
    screen.shows("1000 and 1000 answers")
    watching.shows("1000 and 1000 answers")
    screen.run("no more")
    screen.shows("no more\nno more")
    assert "^[" not in screen.text
    assert screen.page.locator("#status").inner_text().startswith("Connected")
    end(screen)
    assert otto.complaints == []


def test_tmux_and_htop_draw_as_they_should_and_follow_the_size(olga: Person) -> None:
    needs("tmux", "htop")
    screen = opened(olga)
    no_paste = "set -g assume-paste-time 0"  # as which tmux takes keys that come within a millisecond of each other
    screen.run(f"tmux -L pages -f /dev/null new-session -s pages ';' {no_paste}")
    screen.shows("[pages]")
    until(lambda: screen.text.splitlines()[0], "the shell asks")
    screen.run("echo left")
    screen.page.keyboard.press("Control+b")
    screen.type("%")
    until(lambda: re.search(r"│ *\S", screen.text), "the shell in the right half asks", context=lambda: screen.text)
    screen.run("htop")
    screen.shows("Load average")
    screen.shows("F1Help")
    border = screen.text.splitlines()[3].index("│")
    screen.page.set_viewport_size({"width": 700, "height": 500})
    until(lambda: screen.text.splitlines()[3].find("│") in range(border), "tmux has drawn it narrower")
    screen.shows("F1Help")
    screen.page.set_viewport_size({"width": 1000, "height": 640})
    until(lambda: screen.text.splitlines()[3].find("│") >= border, "tmux has drawn it wider again")
    screen.page.keyboard.press("q")
    until(lambda: "F1Help" not in screen.text, "htop has ended")
    screen.page.keyboard.press("Control+b")
    screen.type(":")
    # What comes before tmux asks goes to the shell.
    until(lambda: screen.text.splitlines()[-1].startswith(":"), "tmux asks for a command", context=lambda: screen.text)
    screen.type("kill-server")
    screen.page.keyboard.press("Enter")
    screen.shows("[server exited]")
    end(screen)


def test_what_programs_print_stays_text(olga: Person, tmp_path: Path) -> None:
    """Titles and links and the sequence that would write the clipboard."""
    olga.context.grant_permissions(["clipboard-read", "clipboard-write"])
    screen = opened(olga)
    screen.page.evaluate("navigator.clipboard.writeText('mine')")
    program = tmp_path / "hostile.sh"
    program.write_text(
        r"""printf '\033]0;<img src=x onerror=alert(1)>\007\033]52;c;ZXZpbA==\007'
        printf '\033]8;;javascript:alert(1)\033\\click\033]8;;\033\\ <script>alert(1)</script>\n'
        echo https://127.0.0.1:1/x"""
    )
    screen.run(f"PS1=; clear; sh {program}")  # no prompt that sets a title of its own
    screen.shows("<script>alert(1)</script>")
    screen.shows("https://127.0.0.1:1/x")
    assert screen.page.title() == f"{NODE}: <img src=x onerror=alert(1)>"
    assert screen.page.evaluate("navigator.clipboard.readText()") == "mine"
    pages = len(olga.context.pages)
    screen.page.set_viewport_size({"width": 700, "height": 500})  # where a longer status line would need more room

    def click(text: str) -> str:
        """What the page says then."""
        box = screen.page.locator(".xterm-rows").get_by_text(text).last.bounding_box()
        if box:  # it is being drawn otherwise
            screen.page.mouse.move(box["x"] + 10, box["y"] + box["height"] / 2, steps=3)
            screen.page.mouse.click(box["x"] + 10, box["y"] + box["height"] / 2)
        return screen.page.locator("#hint").inner_text()

    until(lambda: "Ctrl-click opens https://127.0.0.1:1/x" in click("https://127.0.0.1:1/x"), "a click opens nothing")
    click("click")
    assert len(olga.context.pages) == pages
    screen.page.set_viewport_size({"width": 1000, "height": 640})
    end(screen)


def test_a_watcher_sees_all_and_types_nothing(olga: Person, signed_in: dict[str, Person], stack: Stack) -> None:
    screen = opened(olga)
    screen.run("PS1='$ '; clear; cat")
    otto = signed_in["otto"]
    otto.page.goto("/terminal/")
    otto.page.get_by_role("link", name="Watch").first.click()
    watching = Screen(otto.page)
    watching.is_connected()
    expect(otto.page.locator("#status")).to_contain_text("Watching")
    expect(screen.page.locator("#hint")).to_contain_text("otto (observer)")
    watching.type("rm -rf everything\n")
    screen.run("typed by the owner")
    watching.shows("typed by the owner\ntyped by the owner")
    assert "everything" not in screen.text
    assert otto.page.locator("#hint").inner_text() != "otto (observer) is here."  # that he knows
    assert otto.page.get_by_role("button", name="Paste").is_disabled()
    screen.page.set_viewport_size({"width": 800, "height": 500})
    size = "() => document.querySelectorAll('.xterm-rows > div').length"
    until(lambda: screen.page.evaluate(size) == otto.page.evaluate(size), "both have the same size")
    screen.page.set_viewport_size({"width": 1000, "height": 640})
    eve = signed_in["eve"]
    assert eve.page.goto(f"/terminal/{screen.session}/").status == 404
    assert eve.page.goto(f"/terminal/{screen.session}/recording").status == 404
    end(screen)
    otto.page.wait_for_selector("body[data-state=ended]")
    assert otto.complaints == []


def test_a_command_without_a_terminal_can_be_watched(signed_in: dict[str, Person], stack: Stack) -> None:
    otto = signed_in["otto"]
    waiting = command("exec", NODE, "echo out; echo error >&2; read line")
    with subprocess.Popen(
        waiting, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=PROJECT, env=env(stack)
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == b"out\n"
        otto.page.goto(f"/terminal/{newest(stack)['id']}/")
        Screen(otto.page).shows("out\nerror\n")
        process.stdin.write(b"enough\n")
        process.stdin.flush()
        assert process.wait(20) == 0
    otto.page.wait_for_selector("body[data-state=ended]")
    assert otto.complaints == []


def test_from_the_admin_it_is_two_clicks_to_a_shell(browser: Browser, stack: Stack) -> None:
    with stack.api() as api:
        api.post(f"/api/v1/terminal/nodes/{NODE}/grants/", json={"user": "ada", "role": "operator"})
    ada = Person(browser, stack.url, "ada").log_in()
    ada.page.goto("/admin/nodes/node/")
    ada.page.get_by_role("link", name=NODE, exact=True).click()
    ada.page.get_by_role("link", name="Open terminal").click()
    ada.page.get_by_role("button", name="Open a terminal").click()
    screen = Screen(ada.page)
    screen.is_connected()
    screen.run("echo by''-ada")
    screen.shows("by-ada")
    end(screen)
    for page in ("/admin/", "/admin/terminal/terminalsession/", "/api/docs/"):
        ada.page.goto(page)
        ada.page.wait_for_load_state("networkidle")
    ada.context.close()
    assert ada.complaints == []
    assert ada.foreign == []


def test_pages_fit_a_phone_and_a_keyboard(olga: Person) -> None:
    screen = opened(olga)
    olga.page.set_viewport_size({"width": 360, "height": 640})
    for address in (screen.page.url, "/terminal/", f"/terminal/nodes/{NODE}/", f"/terminal/{screen.session}/recording"):
        olga.page.goto(address)
        assert olga.page.evaluate("document.documentElement.scrollWidth") <= 360, address
    olga.complaints.clear()  # of the recording that had not begun
    olga.page.goto(f"/terminal/{screen.session}/")
    screen.is_connected()
    expect(olga.page.locator(".xterm-helper-textarea")).to_be_focused()
    olga.page.keyboard.press("Control+Shift+F")
    expect(olga.page.get_by_label("Search", exact=True)).to_be_focused()
    olga.page.keyboard.press("Escape")
    olga.page.keyboard.press("Control+Shift+?")
    expect(olga.page.get_by_role("button", name="Search")).to_be_focused()
    olga.page.get_by_label("Screen reader").check()
    expect(olga.page.locator(".xterm-accessibility")).to_be_attached()
    olga.page.get_by_label("Screen reader").uncheck()
    olga.page.set_viewport_size({"width": 1000, "height": 640})
    end(screen)
