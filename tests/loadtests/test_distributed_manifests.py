"""The Kubernetes manifests parse, fit together, and hold options that Locust has."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

from loadtests.ownjournal import DIRECTORY
from tests.loadtests.measure.driving import ROOT, headroom

yaml = pytest.importorskip("yaml")

FILE = ROOT / "docs" / "distributed.yaml"


@pytest.fixture(scope="module")
def manifests() -> dict[tuple[str, str], dict[str, Any]]:
    """Each document by its kind and name."""
    documents = list(yaml.safe_load_all(FILE.read_text(encoding="utf-8")))
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}


def _container(manifest: dict[str, Any]) -> dict[str, Any]:
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    return dict(container)


def test_parts_fit_together(manifests: dict[tuple[str, str], dict[str, Any]]) -> None:
    """The service finds the master, workers name the service, and as many come as must."""
    service = manifests["Service", "headroom-master"]
    master = manifests["Deployment", "headroom-master"]
    worker = manifests["Deployment", "headroom-worker"]
    assert len(manifests) == 3
    for deployment in (master, worker):
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"] == master["spec"]["selector"]["matchLabels"]
    ports = {port["containerPort"] for port in _container(master)["ports"]}
    assert {port["port"] for port in service["spec"]["ports"]} == ports
    assert "--master-host=headroom-master" in _container(worker)["args"]
    assert f"--expect-workers={worker['spec']['replicas']}" in _container(master)["args"]
    assert _container(master)["image"] == _container(worker)["image"]


@pytest.mark.parametrize("name", ["headroom-master", "headroom-worker"])
def test_locust_takes_the_options(
    manifests: dict[tuple[str, str], dict[str, Any]], name: str
) -> None:
    """Locust, with our options, reads the arguments as they stand."""
    container = _container(manifests["Deployment", name])
    assert container["command"] == ["locust"]
    command = [sys.executable, "-m", "locust", *container["args"], "--show-task-ratio"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "unrecognized" not in done.stderr


def test_worker_keeps_its_journals(manifests: dict[tuple[str, str], dict[str, Any]]) -> None:
    """The variable is the one that a worker reads, and names a volume that is there."""
    worker = manifests["Deployment", "headroom-worker"]
    container = _container(worker)
    named = {entry["name"]: entry.get("value") for entry in container["env"]}
    (mount,) = container["volumeMounts"]
    assert named[DIRECTORY] == mount["mountPath"]
    assert mount["name"] in {
        volume["name"] for volume in worker["spec"]["template"]["spec"]["volumes"]
    }


def test_commands_of_the_page_exist() -> None:
    """Each option of each headroom command on the page is one that the command has."""
    page = (ROOT / "docs" / "distributed.md").read_text(encoding="utf-8")
    lines = re.findall(r"^headroom (\w+) (.*)$", page, re.MULTILINE)
    assert {name for name, _ in lines} == {"measure", "recommend"}
    for name, rest in lines:
        done = headroom(name, "--help")
        assert done.code == 0, done.err
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in done.out
