"""Targets: what a user may write, the names they get and where their keys come from."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.targets import (
    BACKENDS,
    Target,
    api_key,
    key_variables,
    parse_target,
    unique_names,
)
from planner.errors import InputError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vllm=http://h:8000", Target(name="vllm", backend="vllm", url="http://h:8000")),
        ("vllm=http://h:8000/v1/", Target(name="vllm", backend="vllm", url="http://h:8000")),
        (
            "ollama=http://127.0.0.1:11434#llama3:8b",
            Target(
                name="ollama",
                backend="ollama",
                url="http://127.0.0.1:11434",
                model="llama3:8b",
                api="native",
            ),
        ),
        (
            "big-1:vllm=https://h/pre#meta/Llama@3=x#y",
            Target(
                name="big-1", backend="vllm", url="https://h/pre", model="meta/Llama@3=x#y"
            ),
        ),
        (" llamacpp=http://[::1]:1 ", Target(name="llamacpp", backend="llamacpp", url="http://[::1]:1")),
    ],
)  # fmt: skip
def test_good_targets(text: str, expected: Target) -> None:
    """Name, kind, address and model are read, and each kind gets the API that suits it."""
    assert parse_target(text) == expected
    assert parse_target(text).endpoint.url == expected.url


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "what kind"),
        ("http://h:8000", "what kind"),
        ("http://h:8000/?a=b", "what kind"),
        ("vllm", "what kind"),
        ("vlm=http://h", "unknown kind 'vlm'.*llamacpp, ollama, vllm, openai"),
        ("VLLM=http://h", "unknown kind"),
        ("=http://h", "unknown kind"),
        ("a:b:vllm=http://h", "bad name 'a:b'"),
        (":vllm=http://h", "bad name"),
        ("a b:vllm=http://h", "bad name"),
        ("-a:vllm=http://h", "bad name"),
        ("x" * 65 + ":vllm=http://h", "bad name"),
        ("vllm=", "target 'vllm': URL '' must begin with http"),
        ("vllm=h:8000", "must begin with http"),
        ("vllm=http://h#", "bad model name"),
        ("vllm=http://h#a\x1b[31m", "bad model name"),
        ("vllm=http://h#" + "m" * 201, "bad model name"),
    ],
)
def test_bad_targets(text: str, message: str) -> None:
    """Each bad target is refused in one bounded line with an example."""
    with pytest.raises(InputError, match=message) as caught:
        parse_target(text)
    assert "http://" in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "text", ["vllm=http://me:s3cret@h", "vlm=http://me:s3cret@h", "http://me:s3cret@h"]
)
def test_credentials_in_a_target_are_never_shown(text: str) -> None:
    """A password in a target is not repeated, whatever is wrong with the rest."""
    with pytest.raises(InputError) as caught:
        parse_target(text)
    assert "s3cret" not in str(caught.value)


@given(st.text(max_size=40), st.sampled_from(["", "vllm=", "vllm=http://", "a:ollama=http://h#"]))
def test_arbitrary_text_is_read_or_refused(text: str, start: str) -> None:
    """Any text gives our own error or a target that reads back the same."""
    try:
        target = parse_target(start + text)
    except InputError as error:
        assert str(error).isprintable()  # noqa: PT017 - either outcome is right
        return
    model = f"#{target.model}" if target.model else ""
    assert parse_target(f"{target.name}:{target.backend}={target.url}{model}") == target
    assert target.backend in BACKENDS


def target(name: str, url: str = "http://h", model: str | None = None) -> Target:
    """A vLLM target."""
    return Target(name=name, backend="vllm", url=url, model=model)


def test_names_become_unique() -> None:
    """The second bearer of a name gets a number, never one that another target already has."""
    given_names = ["a", "a", "a-2", "a", "b"]
    targets = [target(name, f"http://h:{i + 1}") for i, name in enumerate(given_names)]
    named = unique_names(targets)
    assert [t.name for t in named] == ["a", "a-3", "a-2", "a-4", "b"]
    assert [t.url for t in named] == [t.url for t in targets]


@given(st.lists(st.sampled_from(["a", "a-2", "a-3", "b"]), max_size=8))
def test_names_are_always_unique(names: list[str]) -> None:
    """Whatever names are given, the resulting ones differ, and a lone name is kept."""
    named = unique_names(target(name, f"http://h:{i + 1}") for i, name in enumerate(names))
    assert len({t.name for t in named}) == len(names)
    for before, after in zip(names, named, strict=True):
        assert after.name == before or names.count(before) > 1


def test_the_same_target_twice_is_refused() -> None:
    """Two equal targets would only spoil each other; under two names they are meant."""
    with pytest.raises(InputError, match="http://h#m is given 2 times"):
        unique_names([target("a", model="m"), target("b"), target("a", model="m")])
    assert len(unique_names([target("a"), target("b")])) == 2


def test_keys_come_from_the_environment() -> None:
    """The target's own variable comes first, then the common one, and blanks do not count."""
    one = target("big.model-1")
    assert key_variables(one) == ("HEADROOM_API_KEY_BIG_MODEL_1", "HEADROOM_API_KEY")
    own, common = key_variables(one)
    assert api_key(one, {own: " k1\n", common: "k2"}) == "k1"
    assert api_key(one, {own: " ", common: "k2"}) == "k2"
    assert api_key(one, {}) is None


def test_keys_come_from_a_named_variable_only() -> None:
    """A variable that the user names is the only one read, and must be set."""
    one = msgspec.structs.replace(target("a"), api_key_env="MY_KEY")
    assert api_key(one, {"MY_KEY": "k", "HEADROOM_API_KEY": "other"}) == "k"
    with pytest.raises(InputError, match="MY_KEY, which is not set"):
        api_key(one, {"HEADROOM_API_KEY": "other"})


def test_a_key_that_cannot_be_sent_is_refused_unseen() -> None:
    """A key with a line break inside or other characters is refused without showing it."""
    for bad in ("s3cret\nX: y", "s3cret\u00e9"):
        with pytest.raises(InputError, match="HEADROOM_API_KEY has a line break") as caught:
            api_key(target("a"), {"HEADROOM_API_KEY": bad})
        assert "s3cret" not in str(caught.value)


def test_the_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a mapping the process's environment is read; nothing of it stays in the target."""
    monkeypatch.setenv("HEADROOM_API_KEY_A", "s3cret")
    one = target("a")
    assert api_key(one) == "s3cret"
    assert "s3cret" not in repr(one)
