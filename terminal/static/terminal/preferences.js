// What a person has chosen for terminals, kept in this browser: font size, light or dark, screen-reader mode.

const SIZES = [8, 40];
const dark = matchMedia("(prefers-color-scheme: dark)");
const listeners = [];

export const preferences = {
  get fontSize() {
    return Number(read("font-size")) || 14;
  },
  set fontSize(pixels) {
    write("font-size", Math.min(SIZES[1], Math.max(SIZES[0], pixels)));
  },
  // "", which follows the system, "light" or "dark"
  get theme() {
    return read("theme") ?? "";
  },
  set theme(name) {
    write("theme", name);
  },
  get screenReader() {
    return read("screen-reader") === "true";
  },
  set screenReader(on) {
    write("screen-reader", on);
  },
  get isDark() {
    return this.theme ? this.theme === "dark" : dark.matches;
  },
  // Calls `listener` now and after each change.
  follow(listener) {
    listeners.push(listener);
    listener();
  },
};

dark.addEventListener("change", changed);

function read(name) {
  return localStorage.getItem(`terminal-${name}`);
}

function write(name, value) {
  localStorage.setItem(`terminal-${name}`, value);
  changed();
}

function changed() {
  for (const listener of listeners) listener();
}
