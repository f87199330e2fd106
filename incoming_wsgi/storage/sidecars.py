"""Where an upload lies in a bucket, and the small object beside its bytes that says how they are stored."""

from __future__ import annotations

import json
from dataclasses import dataclass

from ..errors import Damaged
from ..upload import Upload, is_ticket
from .claims import Owner
from .parts import Plan
from .records import record_of


def key_of(folder: str, upload: Upload) -> str:
    """What came before all bytes were taken back lies elsewhere, so that it can't get among those that come now.

    :raises ValueError: the upload's id is no ticket.
    """
    if not is_ticket(upload.id):
        raise ValueError("not the id of an upload")
    is_anew = upload.taken_back and folder != "complete"
    return f"{folder}/{upload.id}.{upload.taken_back}" if is_anew else f"{folder}/{upload.id}"


@dataclass(frozen=True)
class Sidecar:
    """How an upload is stored; never changed.

    :ivar multipart: the id of the multipart upload; empty for a file without a byte.
    :ivar nonce: what the complete object bears.
    :ivar opener: who has begun the upload, when nothing of it was there.
    """

    multipart: str
    nonce: str
    plan: Plan
    opener: Owner

    def to_json(self, upload: Upload) -> bytes:
        about = {
            "version": 1,
            "multipart": self.multipart,
            "nonce": self.nonce,
            "part_size": self.plan.part_size,
            "length": self.plan.length,
            "opener": str(self.opener),
        }
        return json.dumps({**about, "upload": record_of(upload)}).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Sidecar:
        """:raises Damaged: it is none of ours."""
        try:
            about = json.loads(text)
            plan, opener = Plan(about["part_size"], about["length"]), Owner.from_text(about["opener"])
            return cls(about["multipart"], about["nonce"], plan, opener)
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged("What is stored about this upload can't be read.") from error
