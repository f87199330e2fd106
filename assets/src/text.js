/** Half a surrogate pair, which no encoder takes; file names may contain it. */
const LONELY = /[\uD800-\uDFFF]/gu;

export const well_formed = (text) => String(text).replace(LONELY, "\uFFFD");

/** Text as it may stand in a header. */
export const header_text = (text) => encodeURIComponent(well_formed(text));
