// The page that plays a recording: any speed, pause, seek, search.

import { Recording, clock } from "./recording.js";
import { attachPreferences, attachSearch, makeScreen } from "./screen.js";

const LARGEST_BYTES = 200 * 1024 * 1024;
const STEP_SECONDS = 5;
const LONGEST_PAUSE_SECONDS = 1;

const $ = (id) => document.getElementById(id);
const screen = makeScreen($("screen"), { say: (text) => ($("hint").textContent = text), disableStdin: true });
const { terminal } = screen;
const openSearch = attachSearch($("search"), screen);

let recording;
let next = 0; // index of the first event that is not on the screen
let drawn = 0; // so many characters of it are, all the same
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
  show(0);
  play(true);
}

function attach() {
  for (const id of ["play", "position", "back", "forward", "find"]) $(id).disabled = false;
  $("play").addEventListener("click", () => play(!playing));
  $("position").addEventListener("input", (event) => show(Number(event.target.value)));
  $("back").addEventListener("click", () => show(now - STEP_SECONDS));
  $("forward").addEventListener("click", () => show(now + STEP_SECONDS));
  $("find").addEventListener("click", openSearch);
  $("search").addEventListener("submit", () => toHit(1));
  $("search").elements.previous.addEventListener("click", () => toHit(-1));
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
  const speed = Number($("speed").value) || 1;
  now += (Math.max(0, at - drawnAt) / 1000) * speed;
  drawnAt = at;
  const coming = recording.events[next]?.seconds;
  if ($("skip").checked && coming > now + LONGEST_PAUSE_SECONDS) now = coming - LONGEST_PAUSE_SECONDS;
  advance(Math.min(now, recording.seconds));
  if (now >= recording.seconds) play(false);
  else requestAnimationFrame(tick);
}

// The screen as it was at `seconds`. What was before has to be drawn again: a screen cannot be drawn backwards.
function show(seconds) {
  const wanted = Math.min(recording.seconds, Math.max(0, seconds));
  if (wanted < now || next === 0) rewind();
  advance(wanted);
}

function rewind() {
  // In its place among what is written, like every change of size.
  terminal.write("\x1bc", () => terminal.resize(recording.cols, recording.rows));
  next = drawn = 0;
}

function advance(seconds) {
  now = seconds;
  drawUpTo(recording.after(now));
  tell();
}

function drawUpTo(end) {
  for (; next < end; next++, drawn = 0) draw(recording.events[next]);
}

function draw({ code, data }) {
  if (code === "o") terminal.write(data.slice(drawn));
  if (code === "m") $("hint").textContent = data;
  if (code === "x") $("hint").textContent = data === "-1" ? "The shell was ended." : `The shell ended with status ${data}.`;
  if (code === "r") terminal.write("", () => terminal.resize(...data.split("x").map(Number)));
}

// Goes to where the text of the search box was printed, and marks it there.
function toHit(direction) {
  const text = $("search").elements.text.value;
  if (text !== sought) [sought, hits] = [text, recording.find(text)];
  const side = ({ event, upto }) => Math.sign(event - next || upto - drawn);
  const hit =
    direction > 0
      ? (hits.find((one) => side(one) > 0) ?? hits[0])
      : (hits.findLast((one) => side(one) < 0) ?? hits.at(-1));
  if (!hit) {
    $("hint").textContent = `“${text}” was not shown.`;
    return;
  }
  play(false);
  rewind();
  drawUpTo(hit.event);
  terminal.write(recording.events[next].data.slice(0, hit.upto), () => screen.search.findPrevious(text));
  drawn = hit.upto;
  now = hit.seconds;
  tell();
  $("hint").textContent = `Number ${hits.indexOf(hit) + 1} of the ${hits.length} places where it was shown.`;
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
