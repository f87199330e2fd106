"""Every error a client, a back end or an operator can meet: number, name, HTTP status, retryable or not.

The numbers go over the wire (``ErrorCode`` of Incoming!! 0.1, ``error.code`` in JSON) and are the
``error_code`` values of ``incoming.js``: a closed set, never renumbered. ``tests/test_errors.py`` compares the lists.
"""

from __future__ import annotations

from typing import Any, ClassVar


class IncomingError(Exception):
    """Root of all errors of this package. ``str(error)`` is a sentence that may be shown to a stranger.

    :ivar retry_after: seconds after which trying again may help; only where ``retryable``.
    :ivar facts: what the error knows, by name, for callers that act on it.
    """

    code: ClassVar[int] = 23
    name: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = True
    sentence: ClassVar[str] = "Something went wrong on the server."

    def __init__(self, message: str = "", *, retry_after: float | None = None, **facts: Any) -> None:
        super().__init__(message or self.sentence)
        self.retry_after = retry_after
        self.facts = facts

    @property
    def headers(self) -> dict[str, str]:
        """What an HTTP answer with this error bears besides its status."""
        headers = {"Cache-Control": "no-store"}
        if self.retryable:
            headers["Retry-After"] = str(max(1, round(self.retry_after or 1)))
        return headers

    def as_json(self) -> dict[str, Any]:
        """The error as front ends read it."""
        return {"code": self.code, "name": self.name, "message": str(self), "retryable": self.retryable}


class BadRequest(IncomingError):
    code, name, status, retryable = 1, "bad_request", 400, False
    sentence = "The request is malformed."


class Unauthorized(IncomingError):
    code, name, status, retryable = 2, "unauthorized", 401, False
    sentence = "This address needs the back-end key."

    @property
    def headers(self) -> dict[str, str]:
        return {**super().headers, "WWW-Authenticate": 'Basic realm="incoming"'}


class Forbidden(IncomingError):
    code, name, status, retryable = 3, "forbidden", 403, False
    sentence = "This is not allowed here."


class ForbiddenOrigin(IncomingError):
    code, name, status, retryable = 4, "forbidden_origin", 403, False
    sentence = "Pages of this origin may not upload here."


class WrongSecret(IncomingError):
    code, name, status, retryable = 5, "wrong_secret", 403, False
    sentence = "The secret is not the one given with the ticket."


class UnknownUpload(IncomingError):
    code, name, status, retryable = 6, "unknown_upload", 404, False
    sentence = "There is no upload with this id."


class NotFound(IncomingError):
    code, name, status, retryable = 7, "not_found", 404, False
    sentence = "There is nothing at this address."


class MethodNotAllowed(IncomingError):
    """``facts["allow"]``: the methods that are allowed, for the ``Allow`` header (RFC 9110, section 15.5.6)."""

    code, name, status, retryable = 8, "method_not_allowed", 405, False
    sentence = "This address does not take this method."

    @property
    def headers(self) -> dict[str, str]:
        return {**super().headers, "Allow": ", ".join(self.facts["allow"])}


class TooSlow(IncomingError):
    code, name, status, retryable = 9, "too_slow", 408, True
    sentence = "The bytes came too slowly; what has arrived is kept."


class Replaced(IncomingError):
    code, name, status, retryable = 10, "replaced", 409, False
    sentence = "Another page or tab has taken this upload over."


class FileChanged(IncomingError):
    code, name, status, retryable = 11, "file_changed", 409, False
    sentence = "This is not the file that this upload began with."


class AlreadyComplete(IncomingError):
    code, name, status, retryable = 12, "already_complete", 409, False
    sentence = "All bytes of this upload have arrived already."


class Cancelled(IncomingError):
    code, name, status, retryable = 13, "cancelled", 410, False
    sentence = "This upload was cancelled."


class Expired(IncomingError):
    code, name, status, retryable = 14, "expired", 410, False
    sentence = "This upload was given up because nothing arrived for a long time."


class Damaged(IncomingError):
    code, name, status, retryable = 15, "damaged", 410, False
    sentence = "The stored bytes of this upload are damaged."


class LengthRequired(IncomingError):
    code, name, status, retryable = 16, "length_required", 411, False
    sentence = "The request must say how many bytes it carries."


class TooLate(IncomingError):
    code, name, status, retryable = 17, "too_late", 412, False
    sentence = "The file is already being handed over."


class NotReady(IncomingError):
    code, name, status, retryable = 18, "not_ready", 412, False
    sentence = "This upload is not being handed over."


class TooLarge(IncomingError):
    code, name, status, retryable = 19, "too_large", 413, False
    sentence = "This is more than the server takes."


class UnsupportedMediaType(IncomingError):
    code, name, status, retryable = 20, "unsupported_media_type", 415, False
    sentence = "The body is of a kind that this address does not take."


class DigestMismatch(IncomingError):
    code, name, status, retryable = 21, "digest_mismatch", 400, False
    sentence = "The bytes do not match their digest; none of them were kept."


class OverQuota(IncomingError):
    code, name, status, retryable = 22, "over_quota", 429, True
    sentence = "Too many uploads at once."


class Internal(IncomingError):
    """A fault of ours or of the machine; what is safe stays safe."""


class NotImplementedHere(IncomingError):
    code, name, status, retryable = 24, "not_implemented", 501, False
    sentence = "This server can't do that."


class Unavailable(IncomingError):
    code, name, status, retryable = 25, "unavailable", 503, True
    sentence = "The server can't take this right now."


class NoSpace(IncomingError):
    code, name, status, retryable = 26, "no_space", 507, True
    sentence = "The server has no space for more bytes at the moment; what has arrived is kept."


class Undeliverable(IncomingError):
    code, name, status, retryable = 27, "undeliverable", 500, False
    sentence = "The file has arrived, but the app could not be told. It is kept."


class FileUnreadable(IncomingError):
    """Only browsers raise it: the file that was picked can no longer be read."""

    code, name, status, retryable = 28, "file_unreadable", 400, False
    sentence = "The browser can no longer read the file."


class UpgradeRequired(IncomingError):
    code, name, status, retryable = 29, "upgrade_required", 426, False
    sentence = "This address speaks WebSocket, version 13."

    @property
    def headers(self) -> dict[str, str]:
        return {**super().headers, "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}


class Conflict(Exception):
    """The registry's row is no longer the one that the caller read. Internal: never shown to a client."""


#: name → number, as front ends know them.
CODES: dict[str, int] = {error.name: error.code for error in IncomingError.__subclasses__()}
