import assert from "node:assert/strict";
import { test } from "node:test";
import { Failure, FATAL, PASSING, as_failure, error_name, errors, lost } from "../../assets/src/errors.js";

const TABLE =
  `bad_request unauthorized forbidden forbidden_origin wrong_secret unknown_upload not_found method_not_allowed
  too_slow replaced file_changed already_complete cancelled expired damaged length_required too_late not_ready too_large
  unsupported_media_type digest_mismatch over_quota internal not_implemented unavailable no_space undeliverable
  file_unreadable upgrade_required`.split(/\s+/);

test("the errors are the closed set of the contract, numbered from 1", () => {
  assert.deepEqual(
    Object.entries(errors),
    TABLE.map((name, i) => [name, i + 1]),
  );
});

test("the errors can't be changed by a page", () => {
  assert.throws(() => Object.assign(errors, { bad_request: 7 }), TypeError);
});

test("an unknown code is an internal error", () => {
  assert.equal(error_name(10), "replaced");
  assert.equal(error_name(4711), "internal");
  assert.equal(error_name(undefined), "internal");
});

test("trouble on the network has no code", () => {
  assert.equal(lost("gone").code, 0);
  assert.equal(lost("gone").network, true);
  assert.equal(new Failure(FATAL, "replaced", "x").network, false);
});

test("a failure judged differently keeps its facts", () => {
  const failure = new Failure(FATAL, "no_space", "full", { status: 507, retry_after: 3 }).as(PASSING);
  assert.deepEqual([failure.kind, failure.code, failure.status, failure.retry_after], [PASSING, 26, 507, 3]);
});

test("a fault of our own is an internal error, and a developer hears of it", (t) => {
  const warn = t.mock.method(console, "warn", () => {});
  assert.equal(as_failure(new RangeError("oops")).error, "internal");
  assert.equal(warn.mock.callCount(), 1);
});
