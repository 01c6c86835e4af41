"""This process's own terminal, pipes and signals, joined to a terminal on a node."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shutil
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager

from cyxwiz.cli.output import note
from cyxwiz.client import Client
from cyxwiz.terminal.connection import Terminal
from cyxwiz.terminal.frames import Notice, Run
from cyxwiz.terminal.sessions import Ticket

LOST = 255  # as ssh has it: the exit status is not the command's
READ_BYTES = 4096
LOOK_MS = 200  # whether it is to end, while nobody takes what it writes
TOLD = ("waiting", "idle", "expires", "gap")


def run(client: Client, node: str, session: str, ticket: Ticket, what: Run | None, size: tuple[int, int]) -> int:
    """Carries it to its end. Returns the exit status for this process."""
    pty = what is None or what.pty
    with _raw_terminal() if pty and sys.stdin.isatty() else contextlib.nullcontext():
        screen = Screen(client, session, ticket, what, size)
        outcome = asyncio.run(screen.carry())
    if screen.exit is not None and screen.exit.code is not None:
        return screen.exit.code
    if outcome == "left":
        if not pty:
            client.terminals.end(session)
        elif screen.ready is not None:
            note(f"The shell lives on for {screen.ready.keep_seconds} s: cyxwiz nodes ssh --session {session} {node}")
        return LOST
    why = screen.exit.reason if screen.exit else screen.closed[1] if screen.closed else ""
    note(f"Error: {why or 'The terminal was lost.'}")
    return LOST


@contextmanager
def _raw_terminal() -> Iterator[None]:
    """Every key goes to the node, and comes back from there or does not."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setraw(fd, termios.TCSADRAIN)  # what was typed ahead is kept
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


class Screen(Terminal):
    def __init__(self, client: Client, session: str, ticket: Ticket, what: Run | None, size: tuple[int, int]) -> None:
        super().__init__(client.url, client.key, ticket, run=what, size=size)
        self._pty = what is None or what.pty
        self._escapes = Escapes() if self._pty and sys.stdin.isatty() else None
        self._was_connected = False
        self._interrupts = 0
        self._told_unread: object = None  # the connection on which the node was told
        self._gone = threading.Event()

    async def carry(self) -> str:
        """How it ended: "left" where the person wanted to."""
        loop = asyncio.get_running_loop()
        self._leaving = loop.create_future()
        loop.add_signal_handler(signal.SIGWINCH, self._window_changed)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._signalled, number)
        # A daemon: a read from a keyboard cannot be called off.
        threading.Thread(target=self._read, args=[loop], daemon=True).start()
        serving = asyncio.create_task(self.serve())
        await asyncio.wait({serving, self._leaving}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
            return "ended"
        self._gone.set()
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
        return "left"

    async def shown(self, content: bytes, *, error: bool) -> None:
        # In a thread: a terminal that was stopped with Ctrl-S, or a slow pipe, may take its time.
        try:
            await asyncio.to_thread(_write_all, 2 if error else 1, content, self._gone)
        except BrokenPipeError:  # nobody reads any more, as behind `| head`
            if self._pty:
                await self._leave_for_good()
            if not error and self._told_unread is not self._connection:
                self._told_unread = self._connection
                await self.signal("PIPE")  # what it makes of that is its end, and its exit status
        except OSError as fault:
            self._note(f"Error: what came could not be written: {fault.strerror}")
            await self._leave_for_good()

    async def noticed(self, notice: Notice) -> None:
        if notice.kind in TOLD or notice.text.endswith("(observer)"):
            self._note(f"{notice.kind}: {notice.text}")

    async def changed(self) -> None:
        connected = self._connection is not None
        if self._was_connected and not connected and self.closed is None:
            self._note("The connection was lost. Connecting again; what was typed is kept.")
        self._was_connected = connected

    def _note(self, text: str) -> None:
        note(f"\r\n[cyxwiz] {text}\r" if self._pty else text)

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            while content := _read_some():
                asyncio.run_coroutine_threadsafe(self._typed(content), loop).result()
            if not self._pty:
                asyncio.run_coroutine_threadsafe(self.end_input(), loop).result()

    async def _typed(self, content: bytes) -> None:
        if self._escapes is not None:
            self.hurry()
            content, leave = self._escapes.sort_out(content)
            if leave:
                self._leave()
        if content:
            await self.send(content)

    def _window_changed(self) -> None:
        size = shutil.get_terminal_size()
        self._resizing = asyncio.ensure_future(self.resize(size.columns, size.lines))

    def _signalled(self, number: signal.Signals) -> None:
        """The first Ctrl-C is the command's; who presses it again wants to go."""
        self._interrupts += 1
        if number == signal.SIGINT and self._interrupts == 1 and self.ready is not None:
            self._signalling = asyncio.ensure_future(self.signal("INT"))
        else:
            self._leave()

    def _leave(self) -> None:
        if not self._leaving.done():
            self._leaving.set_result(None)

    async def _leave_for_good(self) -> None:
        self._leave()
        await asyncio.Event().wait()


class Escapes:
    """As ssh has it: ~. after the beginning of a line leaves, ~~ is one ~."""

    def __init__(self) -> None:
        self._at_start, self._after_tilde = True, False

    def sort_out(self, typed: bytes) -> tuple[bytes, bool]:
        """(what is for the node, whether to leave)"""
        passed = bytearray()
        for key in typed:
            if self._after_tilde:
                self._after_tilde = False
                if key == ord("."):
                    return bytes(passed), True
                if key != ord("~"):
                    passed.append(ord("~"))
            elif self._at_start and key == ord("~"):
                self._after_tilde, self._at_start = True, False
                continue
            passed.append(key)
            self._at_start = key in b"\r\n"
        return bytes(passed), False


def _read_some() -> bytes:
    """Of standard input. What cannot be read is at its end."""
    with contextlib.suppress(OSError):
        while True:
            select.select([0], [], [])  # another program that has it too may have made it not wait
            with contextlib.suppress(BlockingIOError):
                return os.read(0, READ_BYTES)
    return b""


def _write_all(fd: int, content: bytes, gone: threading.Event) -> None:
    """Until `gone`: who has left need not wait for a reader that does not read."""
    room = select.poll()
    room.register(fd, select.POLLOUT)
    while content and not gone.is_set():
        if room.poll(LOOK_MS):
            with contextlib.suppress(BlockingIOError):
                content = content[os.write(fd, content[: select.PIPE_BUF]) :]
