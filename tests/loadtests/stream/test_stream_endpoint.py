"""Endpoints and the run clock."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.stream import Clock, Endpoint
from planner.errors import InputError


@pytest.mark.parametrize(
    ("url", "parts", "normal"),
    [
        ("http://h", ("http", "h", 80, ""), "http://h"),
        ("http://h:80/", ("http", "h", 80, ""), "http://h"),
        ("https://H.Example:443/a/b/", ("https", "h.example", 443, "/a/b"), "https://h.example/a/b"),
        (" http://127.0.0.1:8000 ", ("http", "127.0.0.1", 8000, ""), "http://127.0.0.1:8000"),
        ("http://[::1]:8000/v1", ("http", "::1", 8000, "/v1"), "http://[::1]:8000/v1"),
        ("HTTPS://[2001:DB8:0::1]", ("https", "2001:db8::1", 443, ""), "https://[2001:db8::1]"),
        ("http://under_score.svc:1", ("http", "under_score.svc", 1, ""), "http://under_score.svc:1"),
    ],
)  # fmt: skip
def test_good_urls(url: str, parts: tuple[str, str, int, str], normal: str) -> None:
    """Scheme, host, port and path are taken apart and the URL is normalised."""
    endpoint = Endpoint.parse(url)
    assert (endpoint.scheme, endpoint.host, endpoint.port, endpoint.base_path) == parts
    assert endpoint.url == normal
    assert Endpoint.parse(endpoint.url) == endpoint


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "must begin with http"),
        ("127.0.0.1:8000", "must begin with http"),
        ("localhost:8000", "must begin with http"),
        ("ftp://h", "must begin with http"),
        ("http:/h", "must begin with http"),
        ("http://", "no host"),
        ("http://:8000", "no host"),
        ("http://h:0", "port 0"),
        ("http://h:65536", "Port out of range"),
        ("http://h:x", "Port could not be cast"),
        ("http://[::1", "Invalid IPv6"),
        ("http://[zz]:1", "cannot be read"),
        ("http://a b", "bad host"),
        ("http://h\u00e9", "bad host"),
        ("http://h/a b", "path"),
        ("http://h/?q=1", "query"),
        ("http://h#m", "fragment"),
        ("http://h/" + "x" * 250, "259 characters"),
    ],
)
def test_bad_urls(url: str, message: str) -> None:
    """Each bad URL is refused in one line with an example."""
    with pytest.raises(InputError, match=message) as caught:
        Endpoint.parse(url)
    assert "http://127.0.0.1:8000" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://me:s3cret@h", "http://s3cret@h:x", "ftp://a:s3cret@h/?q"])
def test_credentials_are_refused_and_never_shown(url: str) -> None:
    """A password in a URL is refused, whatever else is wrong, and not repeated."""
    with pytest.raises(InputError) as caught:
        Endpoint.parse(url)
    assert "s3cret" not in str(caught.value)


@given(st.text(max_size=60))
def test_arbitrary_text_is_parsed_or_refused(text: str) -> None:
    """No text makes the parser raise anything but our own error, nor a URL that is unsafe."""
    for url in (text, f"http://{text}", f"http://h:{text}", f"http://h/{text}"):
        try:
            endpoint = Endpoint.parse(url)
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017 - either outcome is right
        else:
            assert endpoint.url.isascii()
            assert endpoint.url.isprintable()
            assert " " not in endpoint.url
            assert 0 < endpoint.port < 65536


def test_clock_counts_from_its_start() -> None:
    """A new clock starts at zero, and its two ways to read agree."""
    clock = Clock()
    before, ns, after = clock.now(), time.monotonic_ns(), clock.now()
    assert 0 <= before <= clock.at_ns(ns) <= after
    assert abs(clock.started_unix_s + after - time.time()) < 0.5


def test_clocks_of_one_run_agree() -> None:
    """A process that joins a run later reads the same seconds."""
    first = Clock()
    second = Clock(first.started_unix_s)
    assert second.started_unix_s == first.started_unix_s
    ns = time.monotonic_ns()
    assert second.at_ns(ns) == pytest.approx(first.at_ns(ns), abs=0.05)
    past = Clock(time.time() - 100)
    assert past.now() == pytest.approx(100, abs=0.5)
