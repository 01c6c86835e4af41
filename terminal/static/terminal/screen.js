// An xterm.js screen as our pages want it: colours, links that need a modifier, search, character widths.

import { Terminal } from "./xterm/xterm.mjs";
import { SearchAddon } from "./xterm/addon-search.mjs";
import { Unicode11Addon } from "./xterm/addon-unicode11.mjs";
import { WebLinksAddon } from "./xterm/addon-web-links.mjs";
import { preferences } from "./preferences.js";

const DARK = { background: "#16181d", foreground: "#e4e6ea", cursor: "#e4e6ea", selectionBackground: "#3d5a80" };
const LIGHT = { background: "#ffffff", foreground: "#1f2328", cursor: "#1f2328", selectionBackground: "#b6d4fe" };
const FOUND = {
  matchBackground: "#7a5b00",
  matchOverviewRuler: "#c99700",
  activeMatchBackground: "#c75000",
  activeMatchColorOverviewRuler: "#ff6a00",
};

// `say(text)` tells a person something, "" ends it.
export function makeScreen(element, { say, ...options }) {
  const open = (event, address) => follow(event, address, say);
  const terminal = new Terminal({
    allowProposedApi: true, // decorations of what was found, widths of Unicode 11
    fontFamily: "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace",
    minimumContrastRatio: 4.5,
    scrollback: 10_000,
    linkHandler: { activate: open, hover: (_, address) => say(hint(address)), leave: () => say("") },
    ...options,
  });
  const search = new SearchAddon();
  terminal.loadAddon(search);
  terminal.loadAddon(new Unicode11Addon());
  terminal.unicode.activeVersion = "11";
  terminal.loadAddon(new WebLinksAddon(open, { hover: (_, address) => say(hint(address)), leave: () => say("") }));
  terminal.open(element);
  preferences.follow(() => {
    document.documentElement.dataset.theme = preferences.isDark ? "dark" : "light";
    terminal.options.theme = preferences.isDark ? DARK : LIGHT;
    terminal.options.fontSize = preferences.fontSize;
    terminal.options.screenReaderMode = preferences.screenReader;
  });
  return { terminal, search };
}

// Marks `text` wherever it is on the screen or above it, and goes to the next of these or, by -1, the one before.
export function find({ search }, text, direction, more) {
  search[direction > 0 ? "findNext" : "findPrevious"](text, { decorations: FOUND, ...more });
}

// The search box of a page: `form` has an input, a `.found` output and buttons named previous and close. Where there is
// more than the screen has, `seek(text, direction)` goes to a place and promises [its number, of how many].
export function attachSearch(form, screen, seek) {
  const { terminal, search } = screen;
  const input = form.querySelector("input");
  const found = form.querySelector(".found");
  const tell = (number, count) => {
    const said = count ? `${number ? `${number} of ` : ""}${count}` : "Nothing found.";
    found.textContent = input.value ? said : "";
  };
  const go = async (direction) => {
    if (!seek) return find(screen, input.value, direction);
    const place = await seek(input.value, direction);
    if (place) tell(...place);
  };
  if (!seek) search.onDidChangeResults(({ resultIndex, resultCount }) => tell(resultIndex + 1, resultCount));
  const close = () => {
    form.hidden = true;
    search.clearDecorations();
    terminal.focus();
  };
  input.addEventListener("input", () => {
    if (seek) found.textContent = ""; // how many that are is known when it is asked for
    find(screen, input.value, 1, { incremental: true });
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    go(1);
  });
  form.elements.previous.addEventListener("click", () => go(-1));
  form.elements.close.addEventListener("click", close);
  form.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
    if (event.key === "Enter" && event.shiftKey) {
      event.preventDefault();
      go(-1);
    }
  });
  return () => {
    form.hidden = false;
    input.select();
    input.focus();
  };
}

// Buttons that every page with a screen has.
export function attachPreferences() {
  const on = (id, event, act) => document.getElementById(id)?.addEventListener(event, act);
  on("smaller", "click", () => preferences.fontSize--);
  on("larger", "click", () => preferences.fontSize++);
  on("theme", "change", (event) => (preferences.theme = event.target.value));
  on("screen-reader", "change", (event) => (preferences.screenReader = event.target.checked));
  on("full-screen", "click", () =>
    document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen(),
  );
  document.getElementById("theme").value = preferences.theme;
  document.getElementById("screen-reader").checked = preferences.screenReader;
}

function hint(address) {
  return `Ctrl-click opens ${address.slice(0, 200)}`;
}

// What a program prints as a link may lead anywhere, so a click alone opens nothing.
function follow(event, address, say) {
  const isWeb = /^https?:\/\//i.test(address);
  if (isWeb && (event.ctrlKey || event.metaKey)) window.open(address, "_blank", "noopener,noreferrer");
  else say(isWeb ? hint(address) : "Only links to http and https are opened.");
}
