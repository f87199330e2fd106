from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incoming_wsgi.errors import BadRequest, IncomingError, TooLarge
from incoming_wsgi.wire.tus_headers import Final, checksum_of, concatenation_of, declared_length, metadata_of, natural

#: What a server hands in: bytes as characters.
header_text = st.text(st.characters(max_codepoint=255), max_size=60) | st.text("abZ= ,;+/0198", max_size=30)
keys = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=","), min_size=1, max_size=8)


@given(header_text)
def test_any_header_is_read_or_refused(text: str) -> None:
    for read in (metadata_of, concatenation_of, checksum_of, lambda given: natural(given, "X")):
        try:
            read(text)
        except IncomingError as error:
            assert error.status in (400, 413)  # noqa: PT017


@given(st.dictionaries(keys, st.binary(max_size=20) | st.none(), max_size=5))
def test_metadata_of_any_bytes(values: dict[str, bytes | None]) -> None:
    pairs = [key if value is None else f"{key} {base64.b64encode(value).decode()}" for key, value in values.items()]
    metadata = metadata_of(",".join(pairs))
    assert metadata.header() == ",".join(pairs)
    assert list(metadata.values) == list(values)
    for key, value in values.items():
        assert metadata.values[key] == (value or b"").decode("utf-8", "backslashreplace")
        without = metadata.without(key)
        assert without.values == {name: text for name, text in metadata.values.items() if name != key}
        assert metadata_of(without.header()).values == without.values


def test_names() -> None:
    assert metadata_of("name Yg==,filename YQ==").filename == "a"
    assert metadata_of("filename,name Yg==").filename == "b"
    assert metadata_of("filetype YQ==").filename == ""


@pytest.mark.parametrize("header", [",", "a,a", "a YQ==,a YQ==", "a YQ=", "a *", "a ü", " , b", "a YQ== YQ=="])
def test_metadata_that_is_none(header: str) -> None:
    with pytest.raises(BadRequest):
        metadata_of(header)


def test_concatenation() -> None:
    assert concatenation_of(None) == ""
    assert concatenation_of("partial") == "partial"
    assert concatenation_of("final;/a http://b/c") == Final(["/a", "http://b/c"])
    assert concatenation_of("final; /a  /b ") == Final(["/a", "/b"])


@given(st.integers(0, 2**70))
def test_numbers(number: int) -> None:
    if number < 2**63:
        assert natural(str(number), "X") == natural("0" * 40 + str(number), "X") == number
    else:
        with pytest.raises(TooLarge):
            natural(str(number), "X")


def test_lengths() -> None:
    assert declared_length("5", None) == 5
    assert declared_length(None, "1") is None
    for length, defer in ((None, None), ("5", "1"), (None, "0"), ("", None)):
        with pytest.raises(BadRequest):
            declared_length(length, defer)
