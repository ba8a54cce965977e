// The page: what is open, and how its parts work together.

import { follow, getJson, post } from "./api.js";
import { Edits } from "./edits.js";
import { Filters } from "./filters.js";
import { countOf, find, formatCount, formatNumber, make, oncePerFrame, tell } from "./dom.js";
import { ImageList } from "./images.js";
import { Improve } from "./improve.js";
import { listen, showKeys } from "./keys.js";
import { Objects } from "./objects.js";
import { FLAG } from "./packed.js";
import { listClassButtons, showSelection, showTip } from "./selection.js";
import { ObjectTable } from "./table.js";
import { Tools } from "./tools.js";
import { Viewer } from "./viewer.js";

const stage = find("stage");
const state = { session: null, meta: null, objects: null, other: null, drawClass: 0, hovered: 0, ticket: 0 };

const viewer = new Viewer(stage);
const list = new ImageList({ onOpen: openImage, onNone: closeImage });
const context = () => ({ classes: state.meta?.classes ?? [], pixelSize: micrometres(state.meta) });
// The side of a square as large as a pixel, which are as wide as tall but for few images.
const micrometres = (meta) => (meta?.pixel_size ? Math.sqrt(meta.pixel_size[0] * meta.pixel_size[1]) : null);
const filters = new Filters(() => (state.other?.refilter(), viewer.recolour(), drawSelection()), (by) => (eachVersion((objects) => objects.paintBy(by)), viewer.recolour()));
const edits = new Edits(() => state.objects, { onChange: takeChange, onConflict: reload });
const table = new ObjectTable((id) => (select([id]), viewer.goTo(state.objects.center(id), Math.sqrt(state.objects.area[id]))));
const improve = new Improve({ getImages: () => list.sorted, getModels: () => state.session, onModel: (name) => ((state.session.current = name), loadSession()) });
const tools = new Tools(viewer, {
  act: (edit) => act(edit),
  select,
  hover,
  getTarget: () => (state.objects?.selected.size === 1 ? [...state.objects.selected][0] : null),
  getClass: () => state.meta.classes[state.drawClass]?.id,
});

// Opening -----------------------------------------------------------------------------------------------------------

async function loadSession() {
  const session = await getJson("/api/session");
  state.session = session;
  find("version").textContent = session.version;
  find("model").replaceChildren(...session.models.map(({ name, note }) => make("option", { value: name, textContent: name, title: note ?? "", selected: name === session.current })));
  find("formats").replaceChildren(...session.outputs.map((format) => make("option", { value: format, textContent: format })));
  list.replace(session.images);
  return session;
}

async function openImage(image, version = null) {
  const ticket = ++state.ticket; // what arrives for an image that was left is not shown
  const isOther = state.meta?.id !== image.id;
  closePanels();
  // The table is asked for before tiles of the picture, which are many.
  const objects = makeObjects(image, version), loading = image.version === null ? null : objects.load();
  loading?.catch(() => {}); // told below
  if (isOther) {
    Object.assign(state, { meta: null, objects: null, other: null });
    viewer.open(image);
    drawChecked({});
    showSelection(null, context());
    setMessage(image.status === "failed" ? image.error : "");
  }
  document.body.classList.add("loading");
  try {
    const [meta] = await Promise.all([getJson(`/api/images/${image.id}/meta`), loading]);
    if (ticket !== state.ticket) return;
    // What was told while it was being read had nothing to change yet.
    const latest = list.images.get(image.id);
    if (latest && latest.status !== meta.status && latest.revision > meta.revision) return openImage(latest, version);
    Object.assign(state, { meta, objects, other: null });
    filters.show(objects, meta.classes, micrometres(meta));
    viewer.show(objects);
    drawFacts();
    edits.setPossible(meta.can_undo, meta.can_redo);
    edits.write("");
  } catch (error) {
    if (ticket === state.ticket) tell(error.message, { isError: true, retry: () => openImage(image, version) });
  } finally {
    if (ticket === state.ticket) document.body.classList.remove("loading");
  }
}

function makeObjects({ id, width, height }, version) {
  return Object.assign(new Objects(id, version), { colourBy: find("colour-by").value, width, height });
}

function closeImage() {
  state.ticket += 1;
  Object.assign(state, { meta: null, objects: null, other: null });
  viewer.close();
  showSelection(null, context());
}

/** Fetches the table and what is in view anew: others changed the image, or it is being predicted. */
async function reload(objects) {
  await objects.load();
  await objects.refresh([...objects.blocks.keys()].map((key) => key.split("_").map(Number)));
  if (objects !== state.objects) return;
  redraw();
}

function redraw() {
  filters.update();
  state.other?.refilter();
  viewer.repaint();
  drawSelection();
}

function eachVersion(visit) {
  for (const objects of [state.objects, state.other]) if (objects) visit(objects);
}

/** What is told about the open image: its versions, and its marks. */
function drawFacts() {
  const { meta, objects, other } = state, shown = objects.version ?? meta.version ?? meta.versions.at(-1)?.number;
  const names = meta.versions.map(({ number, model, num_objects: n }) => [number, `${number}: ${model}, ${formatCount(n)}`]);
  find("versions").replaceChildren(...names.map(([value, textContent]) => make("option", { value, textContent, selected: value === shown })));
  find("compare").replaceChildren(make("option", { value: "", textContent: "nothing" }), ...names.map(([value, textContent]) => make("option", { value, textContent, selected: value === other?.version })));
  find("version-choice").hidden = names.length < 2;
  drawChecked(meta);
  const isBusy = meta.status === "predicting" || meta.status === "waiting", [done, total] = meta.progress ?? [0, 0];
  document.body.classList.toggle("predicting", isBusy);
  find("busy").hidden = !isBusy;
  find("busy-text").textContent = meta.status === "waiting" ? "Waiting for its turn" : `${total ? Math.round((100 * done) / total) : 0} %: ${countOf(meta.num_objects, "object")} so far`;
  listClassButtons(meta.classes, setClass);
  drawSelection();
}

function drawChecked({ checked = false, region = null }) {
  find("checked").setAttribute("aria-pressed", String(checked && !region));
  find("checked-part").setAttribute("aria-pressed", String(Boolean(region)));
  viewer.frame(region);
}

async function compare(number) {
  const { objects } = state, other = number ? makeObjects(state.meta, Number(number)) : null;
  state.other = other;
  try {
    if (other) {
      other.filter = objects.filter; // one filter for both
      await other.load();
    }
  } catch (error) {
    tell(error.message, { isError: true });
    if (state.other === other) (state.other = null, drawFacts());
  }
  // What was chosen meanwhile is shown, not what arrives last.
  if (state.objects === objects && [other, null].includes(state.other)) viewer.show(objects, state.other);
}

// Selecting and acting ----------------------------------------------------------------------------------------------

function select(ids, how = "replace") {
  const { objects } = state;
  if (!objects) return;
  const chosen = new Set(how === "replace" ? [] : objects.selected);
  for (const id of ids)
    if (how === "remove" || (how === "toggle" && chosen.has(id))) chosen.delete(id);
    else chosen.add(id);
  objects.select(chosen);
  viewer.recolour();
  drawSelection();
}

const drawSelection = () => showSelection(state.objects, context());

function hover(id, place) {
  if (!place) id = 0;
  const overlay = place ? viewer.overlayAt(place[0]) : viewer.overlays[0], { objects } = overlay;
  if (state.hovered && state.hovered !== id) viewer.active.forEach((each) => each.highlight(state.hovered, false));
  if (id && state.hovered !== id) overlay.highlight(id, true);
  state.hovered = id;
  if (objects) showTip(objects, id, place, context());
  if (place && state.meta) find("place").textContent = viewer.toImage(...place).map(Math.floor).join(", ");
}

function act(edit) {
  return isCurrent() ? edits.act(edit) : null;
}

/** Whether the newest version is shown, which corrections and checks are of. */
function isCurrent() {
  const { version } = state.objects, isOlder = version !== null && version !== state.meta.version;
  if (isOlder) tell("Corrections and checks go to the current version. Choose it above first.", { isError: true });
  return !isOlder;
}

async function takeChange(objects, change) {
  if (change.rows) await objects.apply(change);
  else await objects.load();
  if (objects !== state.objects) return;
  if (change.added.length) objects.select(change.added);
  redraw();
}

const selected = () => [...(state.objects?.selected ?? [])];
const actOnSelected = (op, least = 1, more = {}) => selected().length >= least && act({ op, ids: selected(), ...more });

function setClass(index) {
  if (index >= (state.meta?.classes.length ?? 0)) return;
  state.drawClass = index;
  actOnSelected("class", 1, { value: state.meta.classes[index].id });
}

/** The next object to look at: of an unusual size, or with the lowest score that nobody accepted yet. */
function goToUnsure() {
  const { objects } = state;
  if (!objects) return;
  let best = 0, least = Infinity;
  for (let id = 1; id < objects.size; id++) {
    if (!objects.table[id] || objects.flags[id] & (FLAG.accepted | FLAG.edited) || objects.selected.has(id)) continue;
    const doubt = objects.score[id] - (objects.flags[id] & FLAG.odd ? 20000 : 0);
    if (doubt < least) [best, least] = [id, doubt];
  }
  if (!best) return tell("All shown objects are accepted or edited.");
  select([best]);
  viewer.goTo(objects.center(best), Math.sqrt(objects.area[best]));
}

async function acceptAndNext() {
  if (selected().length) await actOnSelected("accept");
  goToUnsure();
}

function deleteHidden() {
  const { objects } = state, ids = [];
  for (let id = 1; id < objects.size; id++) if (!objects.table[id] && !(objects.flags[id] & FLAG.gone)) ids.push(id);
  if (ids.length) act({ op: "delete", ids });
}

async function ask(path, value) {
  try {
    return await post(path, value);
  } catch (error) {
    tell(error.message, { isError: true });
    return null;
  }
}

/** Says that all of the image, or a region of it, was looked at; a second time takes that back. */
async function toggleChecked(event, getRegion) {
  if (event.detail) event.currentTarget.blur(); // by a pointer: the space bar goes to the next object again
  const { meta } = state;
  if (!meta || !isCurrent()) return;
  const region = getRegion(), isSame = meta.checked && String(meta.region) === String(region);
  const image = await ask(`/api/images/${meta.id}/checked`, { checked: !isSame, region });
  if (image) takeImage(image);
}

// What the server tells ---------------------------------------------------------------------------------------------

function takeImage(image) {
  const before = list.images.get(image.id);
  list.update(image);
  if (!list.current) list.open(image.id);
  if (state.meta?.id !== image.id) return;
  Object.assign(state.meta, image);
  const isDone = before?.status !== image.status && image.status === "done";
  if (image.status === "failed") setMessage(image.error);
  drawFacts();
  if (isDone) openImage(image);
}

// Tables of images that are being predicted, at most one a second: they grow with each tile.
let isLoading = false, askedAgain = false;

async function takeBlocks({ id, blocks, revision }) {
  const { objects } = state;
  if (!objects || state.meta.id !== id || (revision === objects.revision && state.meta.status !== "predicting")) return;
  if (edits.pending) return; // our own act, whose answer comes
  for (const [bx, by] of blocks) objects.stale.add(`${bx}_${by}`);
  if (isLoading) return void (askedAgain = true);
  isLoading = true;
  try {
    do {
      askedAgain = false;
      await objects.load();
      await objects.refresh([]);
      if (objects === state.objects) redraw();
      await new Promise((resolve) => setTimeout(resolve, 1000));
    } while (askedAgain);
  } catch {
    // Told by the line at the top when the server is away.
  } finally {
    isLoading = false;
  }
}

function takeEvent(event) {
  if (event.type === "image") takeImage(event.image);
  else if (event.type === "blocks") takeBlocks(event);
  else if (event.type === "job" && event.job.kind === "improve") improve.follow(event.job);
}

let wasAway = false;

function takeState(isHere, why) {
  document.body.classList.toggle("offline", !isHere);
  if (why) find("offline").textContent = `${why[0].toUpperCase()}${why.slice(1)}.`;
  if (isHere && wasAway) loadSession().then(() => state.objects && reload(state.objects)).catch(() => {});
  wasAway = !isHere;
}

// Wiring ------------------------------------------------------------------------------------------------------------

function setMessage(text) {
  find("message").hidden = !text;
  find("message").textContent = text || "";
}

function closePanels() {
  document.body.classList.remove("show-images", "show-objects");
}

const drawScale = oncePerFrame(() => {
  if (!state.meta) return;
  const { scale } = viewer.view, size = micrometres(state.meta) ?? 1;
  const power = 10 ** Math.floor(Math.log10((110 / scale) * size)), length = [5, 2, 1].find((factor) => (factor * power) / size * scale <= 110) * power;
  find("scale").style.width = `${(length / size) * scale}px`;
  find("scale").textContent = `${formatNumber(length)} ${state.meta.pixel_size ? "µm" : "px"}`;
  find("zoom").textContent = `${formatNumber(scale * 100)} %`;
});
viewer.onMove = () => {
  drawScale();
  state.hovered = 0;
  find("tip").hidden = true;
};

function toggle(name) {
  for (const overlay of viewer.overlays) overlay[name] = !overlay[name];
  find(name === "isFilled" ? "fillings" : "outlines").setAttribute("aria-pressed", String(viewer.overlays[0][name]));
  viewer.recolour();
}

const acts = {
  tool: (name) => tools.choose(name),
  merge: () => actOnSelected("merge", 2),
  delete: () => actOnSelected("delete"),
  brush: (key) => tools.resizeBrush(key === "." ? 1.15 : 1 / 1.15),
  fillings: () => toggle("isFilled"),
  outlines: () => toggle("isOutlined"),
  other: () => (state.other ? viewer.placeSplit(viewer.split > 0.5 ? 0 : 1) : false),
  next: goToUnsure,
  accept: acceptAndNext,
  cycle: () => Boolean(tools.cycle()),
  image: (key) => list.step(key === "d" || key === "ArrowRight" ? 1 : -1),
  undo: () => edits.undo(),
  redo: () => edits.redo(),
  zoom: (key) => (key === "0" ? viewer.fit() : viewer.zoomBy(key === "-" ? 1 / 1.4 : 1.4)),
  full: () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen()),
  escape: () => (select([]), tools.stop(), closePanels()),
  help: showKeys,
  class: setClass,
};

function wire() {
  listen(acts);
  for (const button of document.querySelectorAll("[data-act]")) button.onclick = () => acts[button.dataset.act](button.dataset.key);
  find("delete-hidden").onclick = deleteHidden;
  find("checked").onclick = (event) => toggleChecked(event, () => null);
  find("checked-part").onclick = (event) => toggleChecked(event, () => viewer.seen);
  find("predict").onclick = () => state.meta && ask(`/api/images/${state.meta.id}/predict`, { model: find("model").value });
  find("cancel").onclick = () => ask(`/api/images/${state.meta.id}/cancel`);
  find("model").onchange = () => ask("/api/models/current", { name: find("model").value });
  find("versions").onchange = () => openImage(list.images.get(state.meta.id), Number(find("versions").value));
  find("compare").onchange = () => compare(find("compare").value);
  find("open-table").onclick = () => state.objects && table.open(state.objects, context());
  find("zoom-pixels").onclick = () => viewer.zoomToPixels();
  for (const side of ["images", "objects"]) find(`toggle-${side}`).onclick = () => (document.body.classList.toggle(`show-${side}`), document.body.classList.remove(side === "images" ? "show-objects" : "show-images"));
  find("download").onclick = openDownload;
  for (const dialog of document.querySelectorAll("dialog"))
    dialog.onclick = (event) => (event.target === dialog || event.target.closest("[data-close]")) && dialog.close();
  const divider = stage.querySelector(".divider");
  divider.onpointerdown = (event) => (divider.setPointerCapture(event.pointerId), event.stopPropagation());
  divider.onpointermove = (event) => divider.hasPointerCapture(event.pointerId) && viewer.placeSplit((event.clientX - stage.getBoundingClientRect().left) / stage.clientWidth);
  divider.onkeydown = (event) => {
    const step = { ArrowLeft: -0.05, ArrowRight: 0.05 }[event.key];
    if (step) (viewer.placeSplit(viewer.split + step), event.stopPropagation());
  };
  tools.choose("select");
  edits.setPossible(false, false);
}

function openDownload() {
  const { objects, meta } = state;
  if (!objects) return tell("Open an image first.");
  find("download-what").textContent = objects.shown === objects.number ? `${countOf(objects.number, "object")} of ${meta.name}.` : `${formatCount(objects.shown)} of ${countOf(objects.number, "object")} of ${meta.name} are shown.`;
  find("download-shown").hidden = objects.shown === objects.number;
  const version = objects.version === null ? "" : `version=${objects.version}&`;
  const link = (query) => `${objects.base}/download/${find("formats").value}?${version}${query}`;
  const write = () => {
    find("download-shown").href = link(filters.query);
    find("download-all").href = link("");
  };
  find("formats").onchange = write;
  write();
  find("download-dialog").showModal();
}

wire();
follow(takeEvent, takeState);
loadSession()
  .then((session) => session.images.length && list.open(session.images[0].id))
  .catch((error) => tell(error.message, { isError: true, retry: () => location.reload() }))
  .finally(() => document.body.classList.remove("starting"));

// For tests and measurements.
globalThis.manymask = { state, viewer, filters, edits, select };
