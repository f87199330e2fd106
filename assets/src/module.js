// Entry of incoming.mjs, for import … from "…/incoming.mjs".
import { make_library } from "./library.js";

const incoming = make_library(import.meta.url, globalThis.location?.href);

export const { set_server_hostname, Uploader, previous, errors, version } = incoming;
export default incoming;
