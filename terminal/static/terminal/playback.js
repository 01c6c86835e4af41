// The page that plays a recording: any speed, pause, seek, search.

import { Recording, clock } from "./recording.js";
import { attachPreferences, attachSearch, find, makeScreen } from "./screen.js";

const LARGEST_BYTES = 200 * 1024 * 1024;
const STEP_SECONDS = 5;
const LONGEST_PAUSE_SECONDS = 1;
const PIECE = 256 * 1024; // characters at once: xterm.js drops what it is given when 50 MB wait
const LONG_MS = 300; // a drawing that takes longer says how far it is

const $ = (id) => document.getElementById(id);
const screen = makeScreen($("screen"), { say: (text) => ($("hint").textContent = text), disableStdin: true });
const { terminal } = screen;
const openSearch = attachSearch($("search"), screen, toHit);

let recording;
let next = 0; // index of the first event that is not on the screen
let drawn = 0; // so many characters of it are, all the same
let drawing = null; // up to where, {event, upto}, while that goes on
let now = 0; // seconds
let playing = false;
let drawnAt;
let hits = [];
let sought = "";

attachPreferences();
load();

async function load() {
  try {
    const answer = await fetch(document.body.dataset.source);
    if (!answer.ok) {
      const { detail } = await answer.json().catch(() => ({}));
      throw new Error(detail ?? `The server answered ${answer.status}.`);
    }
    if (Number(answer.headers.get("Content-Length")) > LARGEST_BYTES) {
      throw new Error("It is too large to be played here. Download it and use: asciinema play FILE");
    }
    recording = new Recording(await answer.text());
  } catch (error) {
    status("ended", error.message);
    return;
  }
  $("position").max = recording.seconds;
  attach();
  rewind();
  play(true);
}

function attach() {
  for (const id of ["play", "position", "back", "forward", "find"]) $(id).disabled = false;
  $("play").addEventListener("click", () => play(!playing));
  $("position").addEventListener("input", (event) => show(Number(event.target.value)));
  $("back").addEventListener("click", () => show(now - STEP_SECONDS));
  $("forward").addEventListener("click", () => show(now + STEP_SECONDS));
  $("find").addEventListener("click", openSearch);
  addEventListener("keydown", (event) => {
    if (event.target.matches("input, select, button") || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = {
      " ": () => play(!playing),
      ArrowLeft: () => show(now - STEP_SECONDS),
      ArrowRight: () => show(now + STEP_SECONDS),
      "/": openSearch,
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
}

function play(on) {
  if (on && now >= recording.seconds) show(0);
  playing = on;
  $("play").textContent = on ? "Pause" : "Play";
  drawnAt = performance.now();
  if (on) requestAnimationFrame(tick);
  else tell();
}

function tick(at) {
  if (!playing) return;
  if (drawing) {
    requestAnimationFrame(tick);
    return;
  }
  const speed = Number($("speed").value) || 1;
  now += (Math.max(0, at - drawnAt) / 1000) * speed;
  drawnAt = at;
  const coming = recording.events[next]?.seconds;
  if ($("skip").checked && coming > now + LONGEST_PAUSE_SECONDS) now = coming - LONGEST_PAUSE_SECONDS;
  now = Math.min(now, recording.seconds);
  drawUpTo(recording.after(now));
  if (now >= recording.seconds) play(false);
  else requestAnimationFrame(tick);
}

// The screen as it was at `seconds`. What was before has to be drawn again: a screen cannot be drawn backwards.
async function show(seconds) {
  now = Math.min(recording.seconds, Math.max(0, seconds));
  const end = recording.after(now);
  if (end < next || (end === next && drawn)) rewind();
  if (await drawUpTo(end)) drawnAt = performance.now(); // the time that it took is not played
}

function rewind() {
  // In its place among what is written, like every change of size.
  terminal.write("\x1bc", () => resize(recording.cols, recording.rows));
  next = drawn = 0;
}

// In pieces, each when the one before is on the screen. False when another drawing has begun meanwhile, which goes on
// from where this one is.
async function drawUpTo(event, upto = 0) {
  const mine = (drawing = { event, upto });
  const begun = performance.now();
  tell();
  while (next < event || drawn < upto) {
    const piece = take(mine);
    await new Promise((written) => terminal.write(piece, written));
    if (drawing !== mine) return false;
    if (performance.now() - begun > LONG_MS) status("waiting", `Drawing, ${Math.floor((100 * next) / (event + 1))} % …`);
  }
  drawing = null;
  tell();
  return true;
}

// The output that comes next, not beyond `goal`; what is between is done on the way.
function take(goal) {
  let piece = "";
  while (piece.length < PIECE && (next < goal.event || drawn < goal.upto)) {
    const { code, data } = recording.events[next];
    if (code === "o") {
      const end = Math.min(next < goal.event ? data.length : goal.upto, drawn + PIECE - piece.length);
      piece += data.slice(drawn, end);
      drawn = end;
    } else if (piece) {
      break;
    } else {
      act(code, data);
    }
    if (next < goal.event && (code !== "o" || drawn === data.length)) [next, drawn] = [next + 1, 0];
  }
  return piece;
}

function act(code, data) {
  if (code === "m") $("hint").textContent = data;
  if (code === "x") $("hint").textContent = data === "-1" ? "The shell was ended." : `The shell ended with status ${data}.`;
  if (code === "r") terminal.write("", () => resize(...data.split("x")));
}

// To what the protocol allows. Recordings from before that was asked of nodes have what a node said.
function resize(cols, rows) {
  const clamp = (number, least, most) => Math.min(Math.max(Math.trunc(number) || 0, least), most);
  terminal.resize(clamp(cols, 2, 500), clamp(rows, 1, 300));
}

// Goes to where `text` was printed, and marks it there. [its number, of how many], or nothing where somebody wanted
// something else meanwhile.
async function toHit(text, direction) {
  if (text !== sought) [sought, hits] = [text, recording.find(text)];
  const here = drawing ?? { event: next, upto: drawn };
  const side = ({ event, upto }) => Math.sign(event - here.event || upto - here.upto);
  const hit =
    direction > 0
      ? (hits.find((one) => side(one) > 0) ?? hits[0])
      : (hits.findLast((one) => side(one) < 0) ?? hits.at(-1));
  if (!hit) {
    $("hint").textContent = `“${text}” was not shown.`;
    return [0, 0];
  }
  play(false);
  rewind();
  now = hit.seconds;
  if (!(await drawUpTo(hit.event, hit.upto))) return null;
  find(screen, text, -1);
  const number = hits.indexOf(hit) + 1;
  $("hint").textContent = `Number ${number} of the ${hits.length} places where it was shown.`;
  return [number, hits.length];
}

function tell() {
  $("position").value = now;
  $("position").setAttribute("aria-valuetext", clock(now));
  status(playing ? "connected" : "waiting", `${clock(now)} of ${clock(recording.seconds)}`);
}

function status(state, text) {
  document.body.dataset.state = state;
  if ($("status").textContent !== text) $("status").textContent = text;
}
