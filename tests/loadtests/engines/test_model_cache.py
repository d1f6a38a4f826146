"""The test model is made once, by one process, checked by hash, and the same each time."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.engines.model import ModelFiles, cache_folder, ensure_model
from planner.errors import EngineError

MAKE = """
import sys
from pathlib import Path
from loadtests.engines.model import ensure_model
sys.stdin.readline()
print(ensure_model("tiny", cache=Path(sys.argv[1])).gguf)
"""


def digests(files: ModelFiles) -> dict[str, str]:
    """Every file of a model with its SHA-256."""
    paths = [files.gguf, *files.hf.iterdir()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def copied(files: ModelFiles, cache: Path) -> Path:
    """Copy a model into another cache folder, which is quicker than making it; its new place."""
    place = cache / "models" / files.gguf.parent.name
    shutil.copytree(files.gguf.parent, place)
    return place


def test_two_processes_make_it_once(tiny_model: ModelFiles, tmp_path: Path) -> None:
    """Of two processes that ask at once one makes the model, and with the same bytes as ever."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MAKE, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:  # both have imported by the time that both are told to go
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0][0] == outputs[1][0]
    assert sum("making the tiny test model" in errors for _, errors in outputs) == 1
    assert digests(ensure_model("tiny", cache=tmp_path)) == digests(tiny_model)


@pytest.mark.parametrize("name", ["headroom-tiny.gguf", "hf/model.safetensors", "manifest.json"])
def test_damaged_file_is_remade(
    tmp_path: Path, tiny_model: ModelFiles, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """One wrong byte in any file is seen, said, and the model made anew; no scratch is left."""
    victim = copied(tiny_model, tmp_path) / name
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    (tmp_path / "models" / ".headroom-tiny-1-killed").mkdir()
    assert digests(ensure_model("tiny", cache=tmp_path)) == digests(tiny_model)
    said = capsys.readouterr().err
    assert "damaged" in said
    assert "making the tiny test model" in said
    assert sorted(p.name for p in (tmp_path / "models").iterdir()) == [
        "headroom-tiny-1",
        "headroom-tiny-1.lock",
    ]


def test_missing_file_is_remade(tmp_path: Path, tiny_model: ModelFiles) -> None:
    """A file that somebody deleted comes back."""
    (copied(tiny_model, tmp_path) / tiny_model.gguf.name).unlink()
    assert ensure_model("tiny", cache=tmp_path).gguf.exists()


def test_kept_model_is_not_made_again(
    tiny_model: ModelFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    """A whole model is used as it is, without a word."""
    written = tiny_model.gguf.stat().st_mtime_ns
    again = ensure_model("tiny", cache=tiny_model.gguf.parents[2])
    assert again == tiny_model
    assert again.gguf.stat().st_mtime_ns == written
    assert capsys.readouterr().err == ""


def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    """A file where the cache folder should be is one clear line that names the variable to set."""
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(EngineError, match=r"cannot keep the test model .* set HEADROOM_CACHE"):
        ensure_model("tiny", cache=blocked)


@pytest.mark.parametrize("package", ["tokenizers", "safetensors.numpy", "gguf"])
def test_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Without the extra the message names the package and the command; no half model is kept."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        EngineError, match=rf"needs {package}: pip install 'headroom-llm\[engine\]'"
    ):
        ensure_model("tiny", cache=tmp_path)
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["headroom-tiny-1.lock"]


def test_cache_folder_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """HEADROOM_CACHE wins over XDG_CACHE_HOME, which wins over the platform's own place."""
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("HEADROOM_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_folder() == Path("/home/somebody/.cache/headroom")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == Path("/home/somebody/Library/Caches/headroom")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/somebody")
    assert cache_folder() == Path("/var/cache/somebody/headroom")
    monkeypatch.setenv("HEADROOM_CACHE", "/elsewhere")
    assert cache_folder() == Path("/elsewhere")
