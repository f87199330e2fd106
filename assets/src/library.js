import { errors } from "./errors.js";
import { fingerprint } from "./fingerprint.js";
import { Location } from "./location.js";
import { recall } from "./memory.js";
import { Page } from "./page.js";
import { Upload } from "./uploader.js";
import { version } from "./version.js";

/** The library, for a page at `page_url` that loaded it from `script_url`. */
export function make_library(script_url, page_url) {
  const location = new Location(script_url, page_url);
  const page = new Page();

  function set_server_hostname(hostname) {
    location.set_hostname(hostname);
  }

  // With and without `new`: a function that returns an object returns that object either way.
  function Uploader(upload_id, file, options = {}) {
    return new Upload(upload_id, file, options ?? {}, { page, base: location.base });
  }
  Uploader.prototype = Upload.prototype;

  /** The ticket that this file was last uploaded under and that isn't used up, or null. */
  function previous(file) {
    return fingerprint(file).then(recall, () => null);
  }

  return Object.freeze({ set_server_hostname, Uploader, previous, errors, version });
}
