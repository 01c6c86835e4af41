// One terminal session over websockets that come and go: no byte of output is lost or shown twice, no byte of input is
// applied twice. Knows no page: it is given where to put output, and tells what happens.

import * as frames from "./frames.js";
import { Type } from "./frames.js";

const ACK_BYTES = 64 * 1024; // at most so much shown and not acknowledged; the node stops at four times that
const ACK_MS = 50;
const PING_MS = 10_000;
const SILENT_MS = 25_000; // then the connection is taken as dead
const UNCONFIRMED_MS = 5_000; // then input is sent again
const UNCONFIRMED_MOST = 64; // frames: keys that a node is slow to take go in fewer, which may be sent again at once
const INPUT_MS = 1000 / 300; // between two frames of input: the server closes on who sends more than 500 in a second
const INPUT_BURST_MS = 64 * INPUT_MS; // so many at once after a rest
const FOR_GOOD = new Set([1000, 1009, 4400, 4403, 4408, 4409]);

// Before coming again when so many tries in a row have failed. A server that was restarted has lost all its clients at
// once: each has its first try by 6 s and the others after that, so that of 500 no more than some 100 come in a second.
export function pauseAfter(failures) {
  return failures ? 5_000 + 5_000 * Math.random() : 200 + 5_800 * Math.random();
}

// The server may have closed it by now, of which we are told only later.
function sendOn(socket, frame) {
  if (socket.readyState === WebSocket.OPEN) socket.send(frame);
}

export class Connection {
  // `newTicket` promises {ticket, websocket}; `check` promises nothing, or fails when the session is out of reach for
  // good; `output(bytes, isOld, shown)` shows bytes and then calls `shown`; `size` returns {cols, rows}; `tell` has the
  // functions connecting, ready, waiting, notice, resized, ended.
  constructor({ newTicket, check, output, size, tell }) {
    Object.assign(this, { newTicket, check, output, size, tell });
    this.next = null; // offset up to which the output was handed on
    this.oldUpto = this.shown = this.acked = 0;
    this.sequence = 0;
    this.waiting = []; // input that has no number yet
    this.unconfirmed = []; // input as {sequence, bytes}
    this.unconfirmedBytes = 0;
    this.paced = 0; // when the frames of input that were sent would all have had their time
    this.window = 128 * 1024;
    this.failures = 0;
    this.hurried = false; // by a key, since the connection was lost
    this.exit = null;
    this.over = false;
  }

  async open() {
    clearTimeout(this.pause);
    this.pause = null;
    this.tell.connecting();
    try {
      // A websocket does not say why it was not opened.
      if (this.failures > 1) await this.check();
      const [secret, path] = await this.secret();
      this.connect(secret, path);
    } catch (error) {
      // The server refused, or was not reached.
      if (error.status && error.status < 500) this.end(error.message, error.status);
      else this.comeAgain();
    }
  }

  // What is typed in one go is sent in one: a screen answers a thousand questions of a program one by one.
  type(bytes) {
    if (this.over || this.mode === "observer") return;
    if (this.pause && !this.hurried) {
      // Whoever types is there, and few are at a time.
      this.hurried = true;
      this.failures = 0;
      this.hurry();
    }
    if (!this.waiting.length) queueMicrotask(() => this.sendWaiting());
    for (let at = 0; at < bytes.length; at += frames.IN_MOST_BYTES) {
      this.waiting.push(bytes.subarray(at, at + frames.IN_MOST_BYTES));
    }
  }

  resize(cols, rows) {
    if (this.mode === "owner") this.send(frames.resize(cols, rows));
  }

  // Now instead of after the pause.
  hurry() {
    if (this.pause && !this.over) this.open();
  }

  // A resume token is good for the whole session; without one (a fresh page) a ticket, within 30 seconds.
  async secret() {
    if (this.resume) return [{ resume: this.resume, last_offset: this.next }, this.path];
    const { ticket, websocket } = await this.newTicket();
    return [{ ticket }, (this.path = websocket)];
  }

  connect(secret, path) {
    const address = new URL(path, location.href);
    address.protocol = address.protocol.replace("http", "ws");
    const socket = (this.socket = new WebSocket(address));
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      sendOn(socket, frames.hello({ ...secret, ...this.size() }));
      this.heard = Date.now();
      this.pulse = setInterval(() => this.lookAfter(socket), PING_MS / 4);
    };
    socket.onmessage = (message) => {
      if (socket !== this.socket) return;
      this.heard = Date.now();
      this.obey(frames.decode(message.data));
    };
    socket.onclose = (closed) => {
      if (socket === this.socket) this.lost(closed);
    };
  }

  obey(frame) {
    switch (frame.type) {
      case Type.READY:
        return this.began(frame);
      case Type.OUT:
        return this.show(frame);
      case Type.INACK:
        return this.confirmed(frame.sequence);
      case Type.RESIZE:
        return this.tell.resized(frame.cols, frame.rows);
      case Type.NOTICE:
        return this.tell.notice(frame.kind, frame.text);
      case Type.EXIT:
        this.exit = frame;
        return this.acknowledge();
    }
  }

  began(ready) {
    // What a page before this one has shown: the questions in it (where is the cursor?) were answered by that page.
    if (this.next === null && ready.last_seq > 0) this.oldUpto = ready.offset;
    this.next = this.shown = this.acked = ready.replay_from;
    this.resume = ready.resume;
    this.mode = ready.mode;
    if (this.mode === "observer") this.waiting = [];
    this.window = ready.in_window;
    this.failures = 0;
    this.hurried = false;
    this.sequence = Math.max(this.sequence, ready.last_seq);
    this.forget(ready.last_seq);
    this.ready = true;
    this.sendAgain();
    this.tell.ready(ready);
  }

  show({ offset, bytes }) {
    if (offset !== this.next) {
      // Never seen to happen; coming again from the offset that we have mends it.
      this.socket.close();
      return;
    }
    const old = Math.max(0, Math.min(bytes.length, this.oldUpto - offset));
    if (old) this.handOn(bytes.subarray(0, old), true);
    if (old < bytes.length) this.handOn(bytes.subarray(old), false);
  }

  handOn(bytes, isOld) {
    const socket = this.socket;
    const end = (this.next += bytes.length);
    this.output(bytes, isOld, () => {
      if (socket !== this.socket) return;
      this.shown = end;
      if (this.shown - this.acked >= ACK_BYTES || this.exit) this.acknowledge();
      else this.ackTimer ??= setTimeout(() => this.acknowledge(), ACK_MS);
    });
  }

  acknowledge() {
    clearTimeout(this.ackTimer);
    this.ackTimer = null;
    if (this.shown > this.acked || this.exit?.offset === this.shown) {
      this.acked = this.shown;
      this.send(frames.ack(this.shown));
    }
  }

  sendWaiting() {
    if (!this.ready) return; // what is typed meanwhile is joined, and has its number then
    for (let bytes; this.mayInput() && (bytes = this.takeWaiting()); ) {
      const piece = { sequence: ++this.sequence, bytes };
      if (!this.unconfirmed.length) this.confirmedAt = Date.now();
      this.unconfirmed.push(piece);
      this.unconfirmedBytes += bytes.length;
      this.input(piece);
    }
  }

  // Where it is too soon, what waits is sent later.
  mayInput() {
    const early = this.paced - INPUT_BURST_MS - performance.now();
    if (early > 0) this.pace ??= setTimeout(() => this.goOn(), early);
    return early <= 0;
  }

  goOn() {
    this.pace = null;
    this.sendWaiting();
  }

  input({ sequence, bytes }) {
    this.paced = Math.max(this.paced, performance.now()) + INPUT_MS;
    this.send(frames.input(sequence, bytes));
  }

  // As much as one frame and the window have room for.
  takeWaiting() {
    if (this.unconfirmed.length >= UNCONFIRMED_MOST) return null;
    const most = Math.min(frames.IN_MOST_BYTES, this.window - this.unconfirmedBytes);
    let [count, length] = [0, 0];
    while (count < this.waiting.length && length + this.waiting[count].length <= most) {
      length += this.waiting[count++].length;
    }
    return count ? frames.join(this.waiting.splice(0, count)) : null;
  }

  sendAgain() {
    this.confirmedAt = Date.now();
    for (const piece of this.unconfirmed) this.input(piece);
    this.sendWaiting();
  }

  confirmed(upto) {
    this.forget(upto);
    this.sendWaiting();
  }

  forget(upto) {
    this.confirmedAt = Date.now();
    while (this.unconfirmed.length && this.unconfirmed[0].sequence <= upto) {
      this.unconfirmedBytes -= this.unconfirmed.shift().bytes.length;
    }
  }

  send(frame) {
    if (this.ready) sendOn(this.socket, frame);
  }

  lookAfter(socket) {
    const silent = Date.now() - this.heard;
    if (silent > SILENT_MS) this.lost({ code: 1006 }); // a close frame would wait for an answer
    else if (silent > PING_MS) sendOn(socket, frames.ping());
    if (this.unconfirmed.length && Date.now() - this.confirmedAt > UNCONFIRMED_MS) this.sendAgain();
  }

  lost({ code, reason }) {
    clearInterval(this.pulse);
    clearTimeout(this.ackTimer);
    this.ackTimer = null;
    this.ready = false;
    const socket = this.socket;
    this.socket = null;
    socket.close();
    if (FOR_GOOD.has(code)) this.end(this.exit?.reason || reason, code);
    else this.comeAgain();
  }

  comeAgain() {
    const pause = pauseAfter(this.failures++);
    this.pause = setTimeout(() => this.open(), pause);
    this.tell.waiting(pause);
  }

  end(reason, code) {
    this.over = true;
    this.tell.ended({ reason, code, exit: this.exit });
  }
}
