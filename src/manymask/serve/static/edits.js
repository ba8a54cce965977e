// Acts on objects: one after the other to the server, which answers once they are on its disk.

import { post } from "./api.js";
import { countOf, find, tell } from "./dom.js";

const WORDS = { delete: "deleted", restore: "restored", class: "class of", merge: "merged", split: "split", draw: "drew", paint: "added to", erase: "erased from", accept: "accepted" };

export class Edits {
  constructor(getObjects, { onChange, onConflict }) {
    Object.assign(this, { getObjects, onChange, onConflict });
    this.waiting = Promise.resolve();
    this.pending = 0;
    find("undo").onclick = () => this.undo();
    find("redo").onclick = () => this.redo();
  }

  /** Sends an edit in the words of docs/corrections.md; the answer says what changed. */
  act(edit) {
    const number = edit.ids?.length ?? 1;
    return this.send("edits", { edits: [edit] }, `${WORDS[edit.op]} ${countOf(number, "object")}`);
  }

  undo() {
    return this.send("undo", {}, "undid");
  }

  redo() {
    return this.send("redo", {}, "did again");
  }

  /** An act that is tried again goes to the objects that it was meant for, whichever are shown by then. */
  send(route, body, what, objects = this.getObjects()) {
    if (!objects) return Promise.resolve(null);
    this.pending += 1;
    this.write("saving…");
    const job = this.waiting.then(() => this.post(objects, route, body, what));
    this.waiting = job.catch(() => {}); // one that fails does not stop those after it
    return job;
  }

  async post(objects, route, body, what) {
    try {
      const change = await post(`${objects.base}/${route}`, body, { "If-Match": `"${objects.revision}"` });
      await this.onChange(objects, change);
      this.setPossible(change.can_undo, change.can_redo);
      this.write(`${change.what || what} · saved ${new Date().toLocaleTimeString("en-GB")}`);
      return change;
    } catch (error) {
      this.write("not saved", true);
      if (error.status === 409) {
        await this.onConflict(objects);
        tell(`This image was changed elsewhere and is shown as it is now. Not done: ${what}.`, { isError: true });
      } else tell(error.message, { isError: true, retry: error.status === 0 ? () => this.send(route, body, what, objects) : null });
      return null;
    } finally {
      this.pending -= 1;
    }
  }

  setPossible(canUndo, canRedo) {
    find("undo").disabled = !canUndo;
    find("redo").disabled = !canRedo;
  }

  write(text, isError = false) {
    find("saved").textContent = text;
    find("saved").classList.toggle("error", isError);
  }
}
