// Small helpers for elements, numbers and words.

export const find = (id) => document.getElementById(id);

/** An element with properties and children; text never becomes markup. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key in element && key !== "list") element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

export function makeSvg(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

export const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
export const formatCount = (value) => value.toLocaleString("en-US");
export const countOf = (value, word) => `${formatCount(value)} ${word}${value === 1 ? "" : "s"}`;

/** Three digits that count: 0.0123, 45.6, 12,300. */
export function formatNumber(value) {
  if (!Number.isFinite(value)) return "–";
  return Math.abs(value) >= 1000 ? formatCount(Math.round(value)) : String(Number(value.toPrecision(3)));
}

/** Calls `act` once in the next frame, however often it was asked for. */
export function oncePerFrame(act) {
  let isAsked = false;
  return () => {
    if (isAsked) return;
    isAsked = true;
    requestAnimationFrame(() => {
      isAsked = false;
      act();
    });
  };
}

/** Tells what happened, in the corner of the page and to screen readers; `retry` makes it stay, with a button. */
export function tell(text, { isError = false, retry = null } = {}) {
  const note = make("div", { className: isError ? "note error" : "note", role: isError ? "alert" : "status" }, make("span", { textContent: text }));
  const remove = () => note.remove();
  if (retry) note.append(make("button", { type: "button", textContent: "Try again", onclick: () => (remove(), retry()) }));
  note.append(make("button", { type: "button", className: "plain", textContent: "×", ariaLabel: "Close", onclick: remove }));
  // Over an open dialog, which is above all of the page but what is in it.
  (document.querySelector("dialog[open]") ?? document.body).append(find("notes"));
  find("notes").replaceChildren(...[...find("notes").children].slice(-2), note);
  if (!retry) setTimeout(remove, isError ? 12000 : 5000);
}
