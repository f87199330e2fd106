/**
 * Names for openings, in their order: one that was given up, and gets through late, must not take the upload from a newer
 * one. They keep no secret, so chance need not be of the good kind.
 */
const PAGE = Math.random().toString(36).slice(2).padEnd(1, "0");

let count = 0;

export const next_opening = () => `${PAGE}.${(count += 1)}`;
