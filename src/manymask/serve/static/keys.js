// All keys, in one table that `?` shows too.

import { find, make } from "./dom.js";

/** [keys, what they do, the act's name]; a key with modifiers is written as "ctrl+z". */
const KEYS = [
  [["v"], "select and move", "tool select"],
  [["r"], "box", "tool box"],
  [["l"], "lasso", "tool lasso"],
  [["b"], "brush: add to the object, or draw a new one", "tool brush"],
  [["e"], "eraser", "tool erase"],
  [["s"], "split an object by a stroke", "tool split"],
  [["m"], "merge what is selected", "merge"],
  [["Delete", "Backspace"], "delete what is selected", "delete"],
  [[",", "."], "smaller, larger brush (or Alt and wheel)", "brush"],
  [["x"], "fillings on or off", "fillings"],
  [["z"], "outlines on or off", "outlines"],
  [["c"], "the other version, while two are compared", "other"],
  [["n"], "next unsure object", "next"],
  [[" "], "accept, and next", "accept"],
  [["Tab"], "next of objects that overlap here", "cycle"],
  [["a", "ArrowLeft", "d", "ArrowRight"], "image before, image after", "image"],
  [["ctrl+z"], "undo", "undo"],
  [["ctrl+shift+z", "ctrl+y"], "redo", "redo"],
  [["0", "+", "=", "-"], "fit, nearer, farther", "zoom"],
  [["f"], "full screen", "full"],
  [["Escape"], "nothing selected", "escape"],
  [["?"], "all keys", "help"],
];

const POINTER = [
  ["click", "select; Shift adds"],
  ["Shift and drag", "select by a box; Alt takes out"],
  ["Ctrl and click", "delete"],
  ["Alt and click", "merge with what is selected"],
  ["right drag", "draw a new object"],
  ["1 to 9", "class of what is selected, or of what is drawn next"],
];

const NAMES = { " ": "Space", ArrowLeft: "←", ArrowRight: "→", "=": null, Backspace: null, "ctrl+y": null };

export function listen(acts) {
  const known = new Map(KEYS.flatMap(([keys, , name]) => keys.map((key) => [key, name])));
  addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]") || event.target.closest("input:not([type=range]):not([type=checkbox]), select, textarea")) return;
    const isCommand = event.ctrlKey || event.metaKey;
    // Sliders, buttons and tabs keep the keys that work them.
    if (event.target.closest("input, button, summary, a") && ["Tab", " ", "Enter", "ArrowLeft", "ArrowRight"].includes(event.key)) return;
    if (event.altKey) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const name = known.get(isCommand ? `ctrl+${event.shiftKey ? "shift+" : ""}${key}` : key);
    if (!isCommand && /^[1-9]$/.test(key)) acts.class(Number(key) - 1);
    else if (name?.startsWith("tool ")) acts.tool(name.slice(5));
    // An act that has nothing to do gives the key back.
    else if (!name || acts[name](key) === false) return;
    event.preventDefault();
  });
}

export function showKeys() {
  const rows = KEYS.map(([keys, what]) => [keys.map((key) => (key in NAMES ? NAMES[key] : key)).filter(Boolean).map((key) => (key.length === 1 ? key.toUpperCase() : key)), what]);
  find("key-list").replaceChildren(...[...rows, ...POINTER.map(([key, what]) => [[key], what])].map(([keys, what]) =>
    make("div", {}, make("dt", {}, ...keys.map((key) => make("kbd", { textContent: key.replaceAll("+", key.length > 1 ? " + " : "+") }))), make("dd", { textContent: what }))));
  find("help-dialog").showModal();
}
