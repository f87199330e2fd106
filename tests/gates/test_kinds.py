from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incoming_wsgi.gates.kinds import accept_of


@pytest.mark.parametrize(
    ("accept", "name", "declared", "fits"),
    [
        (".jpg", "a.jpg", "", True),
        (".jpg", "A.JPG", "", True),
        (".JPG", "a.jpg", "", True),
        (".jpg", "a.jpeg", "image/jpeg", False),
        (".jpg", "a.jpg.exe", "image/jpeg", False),
        (".jpg", "", "", False),
        (".tar.gz", "a.tar.gz", "", True),
        ("image/*", "a.jpg", "", True),
        ("image/*", "a.exe", "image/jpeg", False),  # the name says more than the client
        ("image/*", "a", "image/jpeg", True),
        ("image/*", "a", "IMAGE/JPEG; q=1", True),
        ("image/*", "a", "", False),
        ("image/*", "a", "imagex/jpeg", False),
        ("application/pdf", "a.pdf", "", True),
        ("application/pdf", "a.zip", "", False),
        (".doc , application/pdf", "a.pdf", "", True),
        ("scan-*.tif", "Scan-17.tif", "", True),
        ("scan-*.tif", "17.tif", "", False),
        ("*/*", "a.pdf", "", True),
        (".jpg", "../a.jpg\0", "", False),
        ("image/*", "data:image/png,a.php", "", False),  # a name is no URL
        ("image/*", "data:image/png;a.exe", "image/png", False),
        ("image/*", "http://a/a.png?a.php", "", False),
        ("image/*", "xx:a.png#a.php", "", False),
        ("image/*", "xx:a.php#a.png", "", True),
        ("image/*", "a.jpg.gz", "", False),
        ("application/gzip", "a.jpg.gz", "", True),
        ("application/gzip", "a.gz", "image/png", True),
        ("application/x-bzip2", "a.txt.bz2", "", True),
        ("image/*", "a.svgz", "", True),
        ("scan-*.tif", "scan-1/17.tif", "", False),  # the app's name for it would be 17.tif
        (".jpg", "a.jp\u200bg", "", False),
        (".jpg", "x/.jpg", "", False),
        (".jpg", "x.php/a.jpg", "", True),
    ],
)
def test_what_may_come(accept: str, name: str, declared: str, fits: bool) -> None:
    assert accept_of(accept).fits(name, declared) is fits


@pytest.mark.parametrize(
    "text", ["jpg", "image/", "/*", "image/*/x", ",", ".jpg,", "a b", ".j\npg", "." * 1001, "../x"]
)
def test_what_means_nothing(text: str) -> None:
    with pytest.raises(ValueError, match="accept lists"):
        accept_of(text)


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_any_text(text: str, name: str, declared: str) -> None:
    with suppress(ValueError):
        assert accept_of(text).fits(name, declared) in (True, False)
