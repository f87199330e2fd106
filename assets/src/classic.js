// Entry of incoming.js, for <script src="…/incoming.js"></script>.
import { make_library } from "./library.js";

// Only while the script first runs does the browser tell where it came from.
globalThis.incoming = make_library(document.currentScript?.src, globalThis.location?.href);
