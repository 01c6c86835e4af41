// The page of one terminal: a screen, a connection, and the buttons around them.

import { FitAddon } from "./xterm/addon-fit.mjs";
import { Connection } from "./connection.js";
import { preferences } from "./preferences.js";
import { attachPreferences, attachSearch, makeScreen } from "./screen.js";
import { ask } from "./server.js";

const APPROVAL_MS = 2000;
const RESIZE_MS = 50;
const NOTICE_MS = 8000;

const $ = (id) => document.getElementById(id);
const { session, node, user, recording } = document.body.dataset;
const api = `/api/v1/terminal/sessions/${session}/`;
const encoder = new TextEncoder();

let mode = null;
let countdown = null;
let noticeTimer = null;

const screen = makeScreen($("screen"), { say: (text) => showHint(text), cursorBlink: true });
const { terminal } = screen;
const fit = new FitAddon();
terminal.loadAddon(fit);

const connection = new Connection({
  newTicket: () => ask("POST", `${api}tickets`),
  check: async () => {
    const { state, end_reason } = await ask("GET", api);
    if (state === "ended") throw Object.assign(new Error(end_reason || "It has ended."), { status: 409 });
  },
  output: show,
  size: () => ({ cols: terminal.cols, rows: terminal.rows }),
  tell: { connecting, ready, waiting, notice, resized, ended },
});

terminal.onData((text) => connection.type(encoder.encode(text)));
terminal.onBinary((text) => connection.type(Uint8Array.from(text, (character) => character.charCodeAt(0))));
terminal.onTitleChange((title) => (document.title = title ? `${node}: ${title.slice(0, 200)}` : `Terminal on ${node}`));
terminal.onResize(later(RESIZE_MS, () => connection.resize(terminal.cols, terminal.rows)));
new ResizeObserver(fitOwn).observe($("screen"));
preferences.follow(fitOwn); // larger text leaves room for fewer columns
addEventListener("online", () => connection.hurry());
addEventListener("fullscreenchange", () => terminal.focus());
attachPreferences();
attachButtons();
start();

async function start() {
  try {
    while ((await ask("GET", api)).state === "unapproved") {
      status("waiting", "Waits for approval by an owner of the node.");
      await new Promise((resolve) => setTimeout(resolve, APPROVAL_MS));
    }
  } catch {
    // The connection will find out, and tell.
  }
  connection.open();
}

// Old output is what a page before this one showed. The questions in it were answered then: a second answer would be
// typed into the shell.
function show(bytes, isOld, shown) {
  if (isOld) terminal.write("", () => (terminal.options.disableStdin = true));
  terminal.write(bytes, () => {
    terminal.options.disableStdin = mode === "observer";
    shown();
  });
}

function connecting() {
  clearInterval(countdown);
  status("waiting", "Connecting …");
}

function ready(told) {
  mode = told.mode;
  document.body.dataset.mode = mode;
  terminal.options.convertEol = !told.pty; // a PTY has made the ends of lines a terminal's already
  $("paste").disabled = mode === "observer";
  if (mode === "observer") {
    terminal.options.disableStdin = true;
    terminal.resize(told.cols, told.rows);
    status("connected", "Watching. What you type goes nowhere.");
  } else {
    fit.fit();
    connection.resize(terminal.cols, terminal.rows);
    status("connected", `Connected; recorded. Ends by ${clock(told.expires_at)} at the latest.`);
  }
  terminal.focus();
}

function waiting(milliseconds) {
  const until = Date.now() + milliseconds;
  const tell = () => {
    const seconds = Math.ceil(Math.max(0, until - Date.now()) / 1000);
    status("waiting", `Connection lost. Trying again in ${seconds} s; the shell goes on meanwhile.`);
  };
  tell();
  countdown = setInterval(tell, 1000);
}

function notice(kind, text) {
  if (text === `${user} (${mode})`) return; // of ourselves
  const said = { joined: `${text} is here.`, left: `${text} left.` }[kind] ?? text;
  showForAWhile(said);
}

// Who watches has the size of the one who types.
function fitOwn() {
  if (mode !== "observer") fit.fit();
}

function resized(cols, rows) {
  if (mode === "observer") terminal.resize(cols, rows);
}

function ended({ reason, code, exit }) {
  clearInterval(countdown);
  terminal.options.disableStdin = true;
  terminal.options.cursorBlink = false;
  const how = exit && exit.code !== null ? `The shell has ended with status ${exit.code}.` : reason || `Closed (${code}).`;
  status("ended", how);
  for (const button of [$("end"), $("paste")]) button?.setAttribute("disabled", "");
  if (exit) $("recording").hidden = !recording;
  else offerWhatThereIs();
}

// To come again, unless it is over, or is not for us any more. Who has to sign in first is asked to by the page. And the
// recording, unless it never began.
async function offerWhatThereIs() {
  try {
    const { state, opened_at, recording_deleted_at } = await ask("GET", api);
    $("again").hidden = state === "ended";
    $("recording").hidden = !recording || !opened_at || recording_deleted_at !== null;
  } catch ({ status }) {
    $("again").hidden = [403, 404].includes(status);
  }
}

function attachButtons() {
  const openSearch = attachSearch($("search"), screen);
  $("find").addEventListener("click", openSearch);
  $("copy").addEventListener("click", copy);
  $("paste").addEventListener("click", paste);
  $("again").addEventListener("click", () => location.reload());
  $("end")?.addEventListener("click", end); // not there for who only watches
  for (const button of document.querySelectorAll("[data-keys]")) {
    button.addEventListener("click", () => {
      terminal.input(JSON.parse(`"${button.dataset.keys}"`));
      terminal.focus();
    });
  }
  // Keys that are ours and not the shell's; each has a button as well.
  terminal.attachCustomKeyEventHandler((event) => {
    const act = { F: openSearch, C: copy, "?": () => $("find").focus() }[event.key];
    if (!event.ctrlKey || !event.shiftKey || !act) return true;
    if (event.type === "keydown") {
      event.preventDefault();
      act();
    }
    return false;
  });
}

function copy() {
  const text = terminal.getSelection();
  // Without HTTPS a page may not write to the clipboard by itself, but the browser's own command may.
  if (!text) showForAWhile("Nothing is selected."); // what was copied before stays
  else if (navigator.clipboard) navigator.clipboard.writeText(text).then(() => showForAWhile("Copied."));
  else document.execCommand("copy");
  terminal.focus();
}

async function paste() {
  try {
    terminal.paste(await navigator.clipboard.readText());
  } catch {
    showHint("This browser lets no page read the clipboard unasked: use Ctrl+Shift+V or ⌘V.");
  }
  terminal.focus();
}

async function end() {
  if (!confirm(`End this terminal on ${node} and all its processes?`)) return;
  try {
    await ask("POST", `${api}end`);
  } catch (error) {
    showHint(error.message);
  }
}

function status(state, text) {
  document.body.dataset.state = state;
  $("status").textContent = text;
}

function showForAWhile(text) {
  showHint(text);
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => showHint(""), NOTICE_MS);
}

function showHint(text) {
  $("hint").textContent = text;
}

function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
}

function later(milliseconds, act) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(act, milliseconds);
  };
}
