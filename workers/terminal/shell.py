"""The program between a session's process and its shell: run by path, with the standard library only, so that it starts
at once and nothing of the node's secrets is in its memory. It ends with the session's process, which saw to that.

    python -I -S shell.py '<JSON Shell>'

With the rights of root it moves into namespaces of its own, where the shell sees its own processes only and all of them
end with the first one; then it becomes the shell's user and the shell. It ends with the shell, as that ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import signal
import sys
import termios
from collections.abc import Callable
from typing import Any

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWPID = 0x00020000, 0x08000000, 0x20000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 2, 4, 8, 1 << 14, 1 << 18
PR_SET_PDEATHSIG = 1
PROCESSES = 512  # of a user that only has terminals; a fork bomb ends there
FILES = 4096
LAST_WORDS_SECONDS = 5  # what the shell left behind on its pipes is ended before that, or else by this

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    shell = json.loads(sys.argv[1])
    if os.geteuid() == 0 and _libc.unshare(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC) == 0:
        told, tell = os.pipe()
        _fork(lambda: _first(shell, tell))
        os.close(tell)
        _stand_aside(shell)
        os._exit((os.read(told, 1) or b"\x7f")[0])
    _become(shell)


def _first(shell: dict[str, Any], tell: int) -> None:
    """Process 1 of the namespace: what becomes an orphan is its child, and all end with it. Tells how the shell ended.
    Those that still have its pipes open then stay for a while: their output is the shell's."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    _libc.mount(b"proc", b"/proc", b"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, None)
    child = _fork(lambda: _become(shell))
    _stand_aside(shell)
    code = _wait(child)
    if shell["pty"]:
        os.write(tell, bytes([code]))
        os._exit(0)
    _libc.prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0)  # who hears it ends by it
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.alarm(LAST_WORDS_SECONDS)
    os.write(tell, bytes([code]))
    with contextlib.suppress(ChildProcessError):  # none is left
        while True:
            os.wait()
    os._exit(0)


def _become(shell: dict[str, Any]) -> None:
    os.setsid()
    if shell["pty"]:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit(resource.RLIMIT_NOFILE, FILES)
    if os.geteuid() != shell["uid"]:
        _limit(resource.RLIMIT_NPROC, PROCESSES)
        os.initgroups(shell["user"], shell["gid"])
        os.setgid(shell["gid"])
        os.setuid(shell["uid"])
    os.umask(0o077)
    try:
        os.chdir(shell["env"]["HOME"])
    except OSError:
        os.chdir("/")
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    program, name = shell["program"], os.path.basename(shell["program"])
    words = [name, "-c", shell["command"]] if shell["command"] else [f"-{name}"]  # with a dash: a login shell
    os.execve(program, words, shell["env"])  # noqa: S606


def _limit(which: int, most: int) -> None:
    hard = resource.getrlimit(which)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(which, (most, most))


def _fork(child: Callable[[], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        child()
    except BaseException as error:
        os.write(2, f"The terminal could not start: {error}\r\n".encode())
    os._exit(127)


def _stand_aside(shell: dict[str, Any]) -> None:
    """What is meant for the shell is not for us, and we keep no pipe of its open."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if not shell["pty"]:
        null = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)


def _wait(child: int) -> int:
    """Collects whoever ends, until `child` does; then how that ended: 128 + n where signal n did it, as shells say."""
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status) % 256 if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


if __name__ == "__main__":
    main()
