// The image in OpenSeadragon, and the overlays that follow its view.

import { clamp, make } from "./dom.js";
import { Overlay } from "./overlay.js";

const OpenSeadragon = window.OpenSeadragon;
const TILE = 256;
const QUICK = 4; // milliseconds: overlays that paint faster are painted in each frame of a movement
const PAUSE = 100; // otherwise so often, in a task of their own, and moved in between
const SLOW = 20; // milliseconds a frame, from which movements are drawn more cheaply
const isStill = matchMedia("(prefers-reduced-motion: reduce)").matches;

// OpenSeadragon adds an inline style sheet, which the page's policy forbids and style.css has, where it finds none with
// this mark; an element of no known language has it too.
const mark = document.createElementNS("urn:none", "style");
mark.setAttribute("data-openseadragon-mobile-css", "");
document.head.append(mark);

export const countLevels = (width, height) => Math.ceil(Math.log2(Math.max(width, height, 2)));

export class Viewer {
  constructor(stage) {
    this.stage = stage;
    this.image = null;
    this.onMove = () => {};
    this.osd = OpenSeadragon({
      element: stage.querySelector(".tiles"),
      drawer: "canvas",
      showNavigationControl: false,
      showNavigator: stage.clientWidth > 700,
      navigatorElement: stage.querySelector(".navigator"),
      navigatorAutoFade: false,
      animationTime: isStill ? 0 : 0.3,
      blendTime: 0,
      immediateRender: isStill,
      minZoomImageRatio: 0.7,
      maxZoomPixelRatio: 24,
      visibilityRatio: 0.4,
      imageSmoothingEnabled: true,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: false },
      gestureSettingsTouch: { clickToZoom: false, dblClickToZoom: false },
      gestureSettingsPen: { clickToZoom: false, dblClickToZoom: false },
    });
    this.osd.innerTracker.keyHandler = this.osd.innerTracker.keyDownHandler = null; // keys.js has all keys
    this.overlays = [...stage.querySelectorAll("canvas.overlay")].map((canvas) => new Overlay(canvas));
    this.split = 1; // share of the width that shows the first version, when two are compared
    this.osd.addHandler("update-viewport", () => this.follow());
    this.pace = 0; // milliseconds between frames of movements, on average
    this.osd.addHandler("animation-start", () => (this.lastFrame = Infinity));
    this.osd.addHandler("animation-finish", () => (this.smooth(true), this.repaintSoon()));
    this.osd.addHandler("open", () => (this.frame(this.region), this.repaint()));
    // Measured here, as each frame asks for it, and asking the page makes it lay itself out.
    this.measure = () => ([this.wide, this.tall] = [stage.clientWidth, stage.clientHeight]);
    this.measure();
    new ResizeObserver(() => (this.measure(), this.repaint())).observe(stage);
  }

  /** Opens an image; its objects come with `show`. */
  open(image) {
    this.image = image;
    const { width, height } = image, maxLevel = countLevels(width, height);
    const tile = (level, x, y) => `/api/images/${image.id}/tiles/${level}/${x}_${y}.webp`;
    for (const overlay of this.overlays) overlay.clear();
    this.osd.open({ width, height, tileSize: TILE, tileOverlap: 0, minLevel: Math.min(8, maxLevel), maxLevel, getTileUrl: tile });
  }

  close() {
    this.image = null;
    this.osd.close();
    for (const overlay of this.overlays) overlay.clear();
  }

  /** Shows one version's objects, or two beside each other. */
  show(first, second = null) {
    [first, second].forEach((objects, index) => {
      const overlay = this.overlays[index];
      overlay.clear();
      overlay.objects = objects;
      overlay.canvas.hidden = !objects;
      if (objects) objects.onBlock = () => this.repaintSoon();
    });
    this.placeSplit(second ? 0.5 : 1);
    this.repaint();
  }

  placeSplit(share) {
    this.split = clamp(share, 0, 1);
    const [first, second] = this.overlays, percent = this.split * 100;
    first.clip = [0, percent];
    second.clip = [percent, 100];
    const divider = this.stage.querySelector(".divider");
    divider.hidden = !second.objects;
    divider.style.left = `${percent}%`;
    for (const overlay of this.overlays) overlay.canvas.parentElement.style.clipPath = `inset(0 ${100 - overlay.clip[1]}% 0 ${overlay.clip[0]}%)`;
  }

  /** What the screen shows, in image pixels. */
  get view() {
    const bounds = this.osd.viewport.getBounds(true), { width } = this.image;
    return { left: bounds.x * width, top: bounds.y * width, scale: this.wide / (bounds.width * width) };
  }

  /** The part of the image that the screen shows: left, top, width and height in whole pixels. */
  get seen() {
    const { left, top, scale } = this.view, { width, height } = this.image;
    const [x, right] = [left, left + this.wide / scale].map((place) => Math.round(clamp(place, 0, width)));
    const [y, bottom] = [top, top + this.tall / scale].map((place) => Math.round(clamp(place, 0, height)));
    return [x, y, right - x, bottom - y];
  }

  /** Frames a part of the image, as `seen` gives it, or none. */
  frame(region) {
    this.region = region;
    const element = this.stage.querySelector(".region") ?? make("div", { className: "region" });
    this.osd.removeOverlay(element);
    if (!region || !this.osd.isOpen()) return;
    const [x, y, width, height] = region.map((length) => length / this.image.width);
    this.osd.addOverlay(element, new OpenSeadragon.Rect(x, y, width, height));
  }

  toImage(x, y) {
    const { left, top, scale } = this.view;
    return [left + x / scale, top + y / scale];
  }

  get active() {
    return this.overlays.filter((overlay) => overlay.objects);
  }

  /** In a frame of a movement: paints again where that is quick, moves what is painted where not. */
  follow() {
    if (!this.image || !this.osd.viewport) return;
    const { view } = this, cost = this.active.reduce((sum, overlay) => sum + overlay.cost, 0);
    if (this.isSame(view)) return;
    const now = performance.now();
    if (now > this.lastFrame) this.pace = 0.8 * this.pace + 0.2 * (now - this.lastFrame);
    this.lastFrame = now;
    this.isSlow ||= this.pace > SLOW;
    this.smooth(!this.isSlow);
    if (cost < QUICK) this.repaint();
    else {
      for (const overlay of this.active) overlay.shift(view);
      this.timer ??= setTimeout(() => this.repaint(), PAUSE);
    }
    this.onMove(view);
  }

  /** Single pixels are seen as such; and on machines without a GPU a movement is drawn without interpolation. */
  smooth(isOn) {
    const isSmooth = isOn && this.view.scale < 4;
    if (isSmooth !== this.isSmooth) this.osd.drawer.setImageSmoothingEnabled(isSmooth); // which draws again
    this.isSmooth = isSmooth;
  }

  isSame(view) {
    const painted = this.active[0]?.painted;
    return painted && ["left", "top", "scale"].every((key) => Math.abs(painted[key] - view[key]) < 1e-6);
  }

  repaint() {
    if (!this.image || !this.osd.isOpen()) return;
    clearTimeout(this.timer);
    this.timer = null;
    this.isAsked = false;
    const { view } = this;
    for (const overlay of this.active) {
      overlay.resize(this.wide, this.tall, window.devicePixelRatio);
      overlay.draw(view);
      if (overlay.hasObjects) this.firstShown ??= performance.now(); // measured in benchmarks/page.py
    }
    this.onMove(view);
  }

  /** Several blocks that arrive at once are painted once. */
  repaintSoon() {
    if (this.isAsked) return;
    this.isAsked = true;
    requestAnimationFrame(() => this.isAsked && this.repaint());
  }

  recolour() {
    for (const overlay of this.active) overlay.recolour();
  }

  /** The overlay of the version at a place on the screen. */
  overlayAt(x) {
    return this.overlays[1].objects && x > this.split * this.wide ? this.overlays[1] : this.overlays[0];
  }

  zoomBy(factor) {
    this.osd.viewport?.zoomBy(factor).applyConstraints();
  }

  fit() {
    this.osd.viewport?.goHome();
  }

  /** One screen pixel for each image pixel. */
  zoomToPixels() {
    this.osd.viewport?.zoomTo(this.image.width / this.wide).applyConstraints();
  }

  /** Brings a place to the middle, near enough to see an object of `diameter` pixels. */
  goTo([x, y], diameter) {
    const { width } = this.image, wide = Math.min(width, Math.max(12 * diameter, 40));
    const tall = (wide * this.tall) / this.wide;
    this.osd.viewport.fitBounds(new OpenSeadragon.Rect((x - wide / 2) / width, (y - tall / 2) / width, wide / width, tall / width));
  }
}
