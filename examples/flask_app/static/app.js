"use strict";

const AT_ONCE = 3;
const POLL_MS = 400;
const NUMBERS = [
  "bytes_total", "bytes_tx", "bytes_acked", "bytes_ahead", "frac_complete",
  "chunks_tx_now", "chunks_acked_now", "chunks_ahead",
  "bytes_per_second", "seconds_left", "phase", "transport", "state_msg", "cancel_msg", "error_code", "error_msg",
  "connected", "paused", "can_pause", "finished", "can_cancel", "cancelling", "cancelled",
];

const news = document.querySelector("#news");
const picker = document.querySelector("#picker");
const drop = document.querySelector("#drop");
const uploads = document.querySelector("#uploads");
const rows = [];

/** One file: its row on the page, and its uploader as soon as it is its turn. */
class Row {
  ticket = null;
  uploader = null;
  begun = false;
  failure = "";
  #share = 0;

  constructor(file) {
    this.file = file;
    this.element = document.querySelector("#upload").content.firstElementChild.cloneNode(true);
    this.#find(".name").textContent = file.name;
    this.#find(".kind").textContent = kind(file.name);
    this.#find(".bar").setAttribute("aria-label", file.name);
    this.#find("details").addEventListener("toggle", () => this.show());
    this.#button("pause", () => this.uploader.pause());
    this.#button("resume", () => this.uploader.start());
    this.#button("again", () => this.begin());
    this.#button("cancel", () => this.#cancel());
    this.#button("remove", () => remove(this));
    this.show();
  }

  get waiting() {
    return !this.begun && this.failure === "";
  }

  get over() {
    const uploader = this.uploader;
    return uploader !== null && (uploader.finished || uploader.cancelled || uploader.error_code !== 0);
  }

  get #hasFailed() {
    return this.failure !== "" || (this.uploader?.error_code ?? 0) !== 0;
  }

  /** Takes one of the places for files that are sent at the same time. */
  get sending() {
    return this.begun && !this.over && !this.uploader?.paused && this.uploader?.phase !== "processing";
  }

  /** A file that was interrupted has a ticket already; any other gets one from the app, now that it needs it. */
  async begin(anew = false) {
    this.begun = true;
    this.failure = "";
    try {
      const kept = anew ? null : await ticketOfBefore(this.file);
      this.ticket = kept ?? (await newTicket());
      this.#upload(kept !== null);
    } catch (error) {
      this.begun = false;
      this.failure = error.message;
      this.show();
    }
  }

  #upload(kept) {
    this.#share = 0;
    const uploader = new incoming.Uploader(this.ticket, this.file);
    uploader.onprogress = () => this.show();
    uploader.onfinished = () => this.#ended("has arrived");
    uploader.oncancelled = () => this.#ended("is cancelled");
    uploader.onerror = () => (kept && isStale(uploader) ? this.begin(true) : this.#ended("has failed"));
    this.uploader = uploader;
    uploader.start();
    this.#followProcessing();
  }

  #ended(how) {
    this.show();
    news.textContent = `${this.file.name} ${how}`;
    showFiles();
  }

  #cancel() {
    if (this.uploader) this.uploader.cancel("cancelled by hand");
    else remove(this);
  }

  async #followProcessing() {
    const uploader = this.uploader;
    while (uploader === this.uploader && !this.over) {
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      if (uploader.phase !== "processing") continue;
      const answer = await fetch(`processing/${this.ticket}`).catch(() => null);
      if (answer?.ok) this.#share = (await answer.json()).done;
      this.show();
    }
  }

  show() {
    const uploader = this.uploader;
    const processing = uploader?.phase === "processing";
    const percent = Math.floor(100 * (processing ? this.#share : (uploader?.frac_complete ?? 0)));
    this.#find(".bar").style.setProperty("--done", `${percent}%`);
    this.#find(".bar").setAttribute("aria-valuenow", percent);
    this.#find(".bar").setAttribute("aria-valuetext", this.#describe(percent));
    this.#find(".state").textContent = this.#describe(percent);
    this.element.classList.toggle("failed", this.#hasFailed);
    this.element.classList.toggle("paused", uploader?.paused ?? false);
    this.element.classList.toggle("processing", processing);
    this.#showButtons();
    this.#showNumbers();
    fillPlaces();
  }

  #describe(percent) {
    const uploader = this.uploader;
    const total = size(this.file.size);
    if (this.failure) return this.failure;
    if (uploader === null) return `${total}, waiting for its turn`;
    if (uploader.error_code !== 0) return uploader.error_msg;
    if (uploader.cancelled) return "Cancelled";
    if (uploader.cancelling) return "Being cancelled …";
    if (uploader.finished) return `Done, ${total}`;
    if (uploader.phase === "processing") return `All here, being checked: ${percent} %`;
    if (uploader.paused) return `Paused at ${percent} % of ${total}`;
    if (!uploader.connected) return `${percent} % of ${total}, ${uploader.state_msg}`;
    const speed = uploader.bytes_per_second ? `, ${size(uploader.bytes_per_second)}/s` : "";
    const left = uploader.seconds_left === null ? "" : `, ${duration(uploader.seconds_left)} left`;
    return `${percent} % of ${total}${speed}${left}`;
  }

  #showButtons() {
    const uploader = this.uploader;
    const visible = {
      pause: uploader?.can_pause ?? false,
      resume: uploader?.paused ?? false,
      again: this.#hasFailed,
      cancel: uploader ? uploader.can_cancel : true,
      remove: this.over,
    };
    const focused = this.element.contains(document.activeElement) ? document.activeElement : null;
    for (const [does, shown] of Object.entries(visible)) this.#find(`[data-does="${does}"]`).hidden = !shown;
    // The focus stays in the row, but never lands on Cancel by itself: the next key press would be one too many.
    if (focused?.hidden) this.#find("button:not([hidden], .danger), summary").focus();
  }

  #showNumbers() {
    if (!this.uploader || !this.#find("details").open) return;
    const list = this.#find(".numbers");
    if (!list.firstChild) list.append(...NUMBERS.map(numberRow));
    NUMBERS.forEach((name, index) => {
      list.children[index].lastChild.textContent = written(this.uploader[name]);
    });
  }

  #button(does, action) {
    const button = this.#find(`[data-does="${does}"]`);
    button.setAttribute("aria-label", `${button.textContent} ${this.file.name}`);
    button.addEventListener("click", action);
  }

  #find(selector) {
    return this.element.querySelector(selector);
  }
}

/** Choosing files, and dropping them anywhere on the page. */

picker.addEventListener("change", () => {
  add([...picker.files]);
  picker.value = "";
});
for (const type of ["dragover", "dragleave", "drop"]) {
  addEventListener(type, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", type === "dragover");
  });
}
addEventListener("drop", (event) => {
  const items = [...event.dataTransfer.items].filter((item) => item.kind === "file");
  const folders = items.filter((item) => item.webkitGetAsEntry()?.isDirectory).length;
  add(items.filter((item) => !item.webkitGetAsEntry()?.isDirectory).map((item) => item.getAsFile()));
  if (folders > 0) news.textContent = "Folders are left out; drop the files in them.";
});

function add(files) {
  for (const file of files) {
    const row = new Row(file);
    rows.push(row);
    uploads.querySelector("ul").append(row.element);
  }
  uploads.hidden = rows.length === 0;
  fillPlaces();
}

function remove(row) {
  rows.splice(rows.indexOf(row), 1);
  row.element.remove();
  uploads.hidden = rows.length === 0;
  picker.focus();
  fillPlaces();
}

function fillPlaces() {
  const free = AT_ONCE - rows.filter((row) => row.sending).length;
  for (const row of rows.filter((candidate) => candidate.waiting).slice(0, Math.max(free, 0))) {
    row.begin();
  }
}

/** Talking to the app. */

/** Unless it is in use: the same file may have been chosen twice. */
async function ticketOfBefore(file) {
  const ticket = await incoming.previous(file);
  return rows.some((row) => row.ticket === ticket && !row.over) ? null : ticket;
}

async function newTicket() {
  const answer = await fetch("tickets", { method: "POST" }).catch(() => null);
  if (!answer?.ok) throw new Error("The server gives no ticket at the moment");
  return (await answer.json()).ticket;
}

async function showFiles() {
  const answer = await fetch("files").catch(() => null);
  if (!answer?.ok) return;
  const files = await answer.json();
  document.querySelector("#none").hidden = files.length > 0;
  document.querySelector("#files ul").replaceChildren(...files.map(fileRow));
}

function fileRow(file) {
  const row = document.querySelector("#file").content.firstElementChild.cloneNode(true);
  const link = row.querySelector("a");
  link.textContent = file.name;
  link.href = `files/${encodeURIComponent(file.name)}`;
  row.querySelector(".kind").textContent = kind(file.name);
  row.querySelector(".state").textContent = size(file.size);
  row.querySelector("code").textContent = `sha256 ${file.sha256}`;
  return row;
}

/** A ticket kept from an earlier visit may be good no longer; then the file starts anew with another one. */
function isStale(uploader) {
  const { unknown_upload, expired } = incoming.errors;
  return [unknown_upload, expired].includes(uploader.error_code);
}

/** Words and numbers. */

function numberRow(name) {
  const row = document.createElement("div");
  row.append(document.createElement("dt"), document.createElement("dd"));
  row.firstChild.textContent = name;
  return row;
}

function written(value) {
  if (value === null || value === "") return "–";
  if (typeof value !== "number") return String(value);
  return value.toLocaleString(undefined, { maximumFractionDigits: value < 10 ? 3 : 0 });
}

function size(count) {
  if (count === 1) return "1 byte";
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  const power = Math.min(Math.floor(Math.log10(Math.max(count, 1)) / 3), units.length - 1);
  return `${Number((count / 1000 ** power).toPrecision(3))} ${units[power]}`;
}

function duration(seconds) {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toPrecision(2)} h`;
}

function kind(name) {
  return /\.([^.]{1,4})$/.exec(name)?.[1].toUpperCase() ?? "FILE";
}

showFiles();
