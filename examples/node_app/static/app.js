"use strict";

const picker = document.querySelector("#picker");
const choose = document.querySelector("#choose");
const upload = document.querySelector("#upload");
const bar = document.querySelector("#bar");
const state = document.querySelector("#state");
const cancel = document.querySelector("#cancel");
const again = document.querySelector("#again");

picker.addEventListener("change", () => {
  if (picker.files.length > 0) begin(picker.files[0]);
});
again.addEventListener("click", reset);

async function begin(file) {
  document.querySelector("#name").textContent = file.name;
  document.querySelector("#kind").textContent = kind(file.name);
  state.textContent = "Asking for a ticket …";
  picker.disabled = choose.hidden = true;
  cancel.hidden = again.hidden = true;
  upload.hidden = false;
  try {
    await send(file, await incoming.previous(file));
  } catch (error) {
    state.textContent = error.message;
    again.hidden = false;
  }
}

/** A file that was interrupted has a ticket already; any other gets one from the back end. */
async function send(file, kept) {
  const uploader = new incoming.Uploader(kept ?? (await newTicket()), file);
  uploader.onprogress = show;
  uploader.onfinished = uploader.oncancelled = ended;
  uploader.onerror = () => (kept && isStale(uploader) ? send(file, null).catch(() => ended(uploader)) : ended(uploader));
  cancel.onclick = () => uploader.cancel("cancelled by hand");
  uploader.start();
}

async function newTicket() {
  const answer = await fetch("tickets", { method: "POST" }).catch(() => null);
  if (!answer?.ok) throw new Error("The server gives no ticket at the moment");
  return (await answer.json()).ticket;
}

/** A ticket kept from an earlier visit may be good no longer; then the file starts anew with another one. */
function isStale(uploader) {
  const { unknown_upload, expired } = incoming.errors;
  return [unknown_upload, expired].includes(uploader.error_code);
}

function show(uploader) {
  const percent = Math.floor(100 * uploader.frac_complete);
  bar.style.setProperty("--done", `${percent}%`);
  bar.setAttribute("aria-valuenow", percent);
  upload.classList.toggle("failed", uploader.error_code !== 0);
  upload.classList.toggle("processing", uploader.phase === "processing");
  state.textContent = describe(uploader, percent);
  cancel.hidden = !uploader.can_cancel;
}

function ended(uploader) {
  show(uploader);
  again.hidden = false;
  again.focus();
  showFiles();
}

function reset() {
  picker.value = "";
  picker.disabled = choose.hidden = false;
  upload.hidden = true;
  picker.focus();
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
  link.href = file.address;
  row.querySelector(".kind").textContent = kind(file.name);
  row.querySelector(".state").textContent = size(file.size);
  return row;
}

function describe(uploader, percent) {
  if (uploader.error_code !== 0) return uploader.error_msg;
  if (uploader.cancelled) return "Cancelled";
  if (uploader.finished) return `Done, ${size(uploader.bytes_total)}`;
  if (uploader.phase === "processing") return "All here, being put away …";
  const sent = `${percent} % of ${size(uploader.bytes_total)}`;
  if (!uploader.connected) return `${sent}, ${uploader.state_msg}`;
  return uploader.seconds_left === null ? sent : `${sent}, ${duration(uploader.seconds_left)} left`;
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
