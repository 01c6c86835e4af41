// Frames of the terminal protocol as bytes, and back: one byte that says the type, then fields, big-endian
// (docs/terminal.md). No I/O.

export const Type = {
  HELLO: 0x01, READY: 0x02,
  OUT: 0x10, IN: 0x11, INACK: 0x12, ERR: 0x13,
  ACK: 0x20, RESIZE: 0x21,
  EXIT: 0x30, NOTICE: 0x31,
  PING: 0x40, PONG: 0x41,
};
export const IN_MOST_BYTES = 4096;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

export function hello(body) {
  return frame(Type.HELLO, encoder.encode(JSON.stringify({ version: 1, ...body })));
}

export function input(sequence, bytes) {
  const head = new DataView(new ArrayBuffer(4));
  head.setUint32(0, sequence);
  return frame(Type.IN, new Uint8Array(head.buffer), bytes);
}

export function ack(offset) {
  return frame(Type.ACK, u64(offset));
}

export function resize(cols, rows) {
  const size = new DataView(new ArrayBuffer(4));
  size.setUint16(0, cols);
  size.setUint16(2, rows);
  return frame(Type.RESIZE, new Uint8Array(size.buffer));
}

export function ping() {
  return frame(Type.PING, u64(0));
}

// {type, …} of what a server sends.
export function decode(buffer) {
  const bytes = new Uint8Array(buffer);
  const view = new DataView(buffer, 1);
  const type = bytes[0];
  switch (type) {
    case Type.OUT:
    case Type.ERR: // standard error of what has no terminal: shown where it comes
      return { type: Type.OUT, offset: Number(view.getBigUint64(0)), bytes: bytes.subarray(9) };
    case Type.INACK:
      return { type, sequence: view.getUint32(0) };
    case Type.RESIZE:
      return { type, cols: view.getUint16(0), rows: view.getUint16(2) };
    case Type.READY:
    case Type.EXIT:
    case Type.NOTICE:
      return { type, ...JSON.parse(decoder.decode(bytes.subarray(1))) };
    default:
      return { type };
  }
}

export function join(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function frame(type, ...parts) {
  return join([Uint8Array.of(type), ...parts]);
}

function u64(number) {
  const view = new DataView(new ArrayBuffer(8));
  view.setBigUint64(0, BigInt(number));
  return new Uint8Array(view.buffer);
}
