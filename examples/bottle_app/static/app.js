"use strict";

const main = document.querySelector("main");
const picker = document.querySelector("#picker");
const choose = document.querySelector("#choose");
const upload = document.querySelector("#upload");
const bar = document.querySelector("#bar");
const cancel = document.querySelector("#cancel");
const again = document.querySelector("#again");

picker.addEventListener("change", () => {
  if (picker.files.length > 0) begin(picker.files[0]);
});
again.addEventListener("click", reset);

/** A file that was interrupted has a ticket already; any other takes the one that came with the page. */
async function begin(file, kept = incoming.previous(file)) {
  const ticket = (await kept) ?? main.dataset.ticket;
  const uploader = new incoming.Uploader(ticket, file);
  uploader.onprogress = show;
  uploader.onfinished = uploader.oncancelled = refresh;
  uploader.onerror = () => (isStale(uploader, ticket) ? begin(file, null) : show(uploader));
  cancel.onclick = () => uploader.cancel("cancelled by hand");
  document.querySelector("#name").textContent = file.name;
  document.querySelector("#kind").textContent = kind(file.name);
  picker.disabled = choose.hidden = true;
  upload.hidden = false;
  show(uploader);
  uploader.start();
}

function show(uploader) {
  const percent = Math.floor(100 * uploader.frac_complete);
  const failed = uploader.error_code !== 0;
  bar.style.setProperty("--done", `${percent}%`);
  bar.setAttribute("aria-valuenow", percent);
  upload.classList.toggle("failed", failed);
  upload.classList.toggle("processing", uploader.phase === "processing");
  document.querySelector("#state").textContent = describe(uploader, percent);
  cancel.hidden = !uploader.can_cancel;
  again.hidden = !(failed || uploader.finished || uploader.cancelled);
}

/** Then the list of files and the ticket for the next one are fetched; the page stays. */
async function refresh(uploader) {
  show(uploader);
  again.focus();
  const answer = await fetch(location.href);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  document.querySelector("#files").replaceWith(page.querySelector("#files"));
  main.dataset.ticket = page.querySelector("main").dataset.ticket;
}

function reset() {
  picker.value = "";
  picker.disabled = choose.hidden = false;
  upload.hidden = true;
  picker.focus();
}

/** A ticket kept from an earlier visit may be good no longer; then the file starts anew with the page's own. */
function isStale(uploader, ticket) {
  const { unknown_upload, expired } = incoming.errors;
  return ticket !== main.dataset.ticket && [unknown_upload, expired].includes(uploader.error_code);
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
