// A recording as asciicast v3: lines of JSON, first what it is, then [seconds since the line before, code, data].
// Lines that begin with # are the recorder's checkpoints. No DOM.

// What moves the cursor, sets colours and titles: OSC and other strings, CSI, shorter escapes, control characters.
const CONTROL = /\x1b[\]P_^X][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[ -/]*[0-~]|[\x00-\x08\x0b-\x1f\x7f]/g;

export class Recording {
  constructor(text) {
    const lines = text.split("\n").filter((line) => line && !line.startsWith("#"));
    // The last line of a session that goes on may not be whole yet.
    if (!text.endsWith("\n")) lines.pop();
    const [header, ...events] = lines.map((line) => JSON.parse(line));
    if (!header) throw new Error("Nothing is recorded yet."); // it begins with the first client
    if (header.version !== 3) throw new Error("This is not an asciicast of version 3.");
    this.cols = header.term.cols;
    this.rows = header.term.rows;
    let seconds = 0;
    this.events = events.map(([interval, code, data]) => ({ seconds: (seconds += interval), code, data }));
    this.seconds = seconds;
  }

  // Index of the first event after `seconds`.
  after(seconds) {
    let [low, high] = [0, this.events.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.events[middle].seconds <= seconds) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  // Where `text` stands in the output, as plain text: {seconds, event, upto}, which is up to where that event has to be
  // drawn. What comes after in the same event may clear the screen again.
  find(text) {
    if (!this.runs) this.index();
    const found = [];
    const wanted = text.toLowerCase();
    let run = 0; // that in which it ends
    for (let at = this.plain.indexOf(wanted); wanted && at >= 0; at = this.plain.indexOf(wanted, at + 1)) {
      while (this.runs[run + 1]?.from < at + wanted.length) run++;
      if (this.runs[run] !== found.at(-1)) found.push(this.runs[run]);
    }
    return found;
  }

  // All output as plain text, and the runs of it between what is not text.
  index() {
    this.runs = [];
    this.plain = "";
    this.events.forEach(({ seconds, code, data }, event) => {
      if (code !== "o") return;
      let upto = 0;
      for (const piece of [...data.matchAll(CONTROL), { 0: "", index: data.length }]) {
        const text = data.slice(upto, piece.index);
        if (text) this.runs.push({ from: this.plain.length, seconds, event, upto: piece.index });
        this.plain += text.toLowerCase();
        upto = piece.index + piece[0].length;
      }
    });
  }
}

export function clock(seconds) {
  const two = (number) => String(Math.floor(number)).padStart(2, "0");
  const hours = Math.floor(seconds / 3600);
  return `${hours ? `${hours}:` : ""}${two((seconds / 60) % 60)}:${two(seconds % 60)}`;
}
