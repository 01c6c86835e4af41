"""What no node that is one of ours says."""

from __future__ import annotations

from protocol import terminal
from protocol.terminal import Exit, Notice

U64, U32, U16 = 2**64 - 1, 2**32 - 1, 2**16 - 1


def attached(start: int = 0, head: int = 0, last_seq: int = 0) -> bytes:
    at = (start, head, last_seq, 80, 24, True, 0)
    return terminal.ATTACHED_FRAME.pack(terminal.ATTACHED, bytes(16), False, *at)


def says(kind: int, text: bytes) -> bytes:
    return bytes([kind]) + text


def notice(text: bytes) -> bytes:
    return says(terminal.NOTICE, text)


def exits(text: bytes) -> bytes:
    return says(terminal.EXIT, text)


READY = (
    b'{"session":"x","mode":"owner","offset":0,"replay_from":9,"skipped":0,"last_seq":0,"pty":true,"resume":"x",'
    b'"cols":80,"rows":24,"expires_at":0,"idle_seconds":1,"keep_seconds":1,"in_window":1,"recording":false}'
)

ODD = [
    b"",
    *(bytes([kind]) for kind in range(256) if kind != terminal.END),
    *(bytes([kind]) + b"x" for kind in range(256) if kind != terminal.END),
    *(says(kind, READY) for kind in (terminal.READY, terminal.HELLO, terminal.ATTACHED, terminal.NOTICE)),
    *(notice(text) for text in (b"{", b"[]", b"null", b"{}", b'"', b'{"kind":5,"text":""}', b'{"kind":"gap"}')),
    *(notice(b'{"kind":"gap","text":%b}' % text) for text in (b'"\xff"', b'"\\ud800"', b'"\\ud800x"', b"5", b"NaN")),
    notice(b'{"kind":"gap","text":"","more":' + b"[" * 4000),
    terminal.encode(terminal.NOTICE, Notice(kind="unheard of", text="")),
    terminal.encode(terminal.NOTICE, Notice(kind="gap", text="x" * 5000)),
    *(exits(text) for text in (b"{", b"{}", b'{"offset":"1"}', b'{"offset":null}', b'{"offset":1,"reason":null}')),
    *(exits(b'{"offset":%d}' % offset) for offset in (-1, 2**53, 10**30)),
    *(
        exits(b'{"offset":0,"code":%b}' % code)
        for code in (b"-1", b"4294967296", b"1%b" % (b"0" * 400), b"1.5", b'"1"')
    ),
    terminal.encode(terminal.EXIT, Exit(offset=0, reason="x" * 5000)),
    *(terminal.pack_out(offset, b"x", kind) for kind in (terminal.OUT, terminal.ERR) for offset in (2**53, 2**63, U64)),
    terminal.pack_out(0, b""),
    says(terminal.END, b"x" * 5000),
    terminal.SIZE.pack(terminal.RESIZE, 1, 1) + b"x",
    terminal.SEQUENCE.pack(terminal.INACK, 1) + b"x",
    attached(start=1),
    attached(start=U64, head=U64),
    attached(head=2**53),
    attached(last_seq=U32),
    attached() + b"x",
    attached()[:-1],
]
