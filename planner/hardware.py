"""What GPUs and models are: a catalogue with sources, which the user's ``--config`` extends.

::

    [gpus."RTX 4080"]               # decimal gigabytes, and per second; dense peaks of one card
    memory_gb = 16
    bandwidth_gb_s = 717

    [models.our-model]              # found in the names of models that contain it
    layers = 32
    kv_heads = 8
    head_dim = 128
    hidden = 4096
    parameters_b = 8.03             # thousand millions
    bits_per_weight = 4.5           # where the model's name does not tell its quantisation
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import msgspec

from planner.shapes import Gpu, Model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planner.shapes import OwnHardware

__all__ = ["Catalogue", "builtin_catalogue"]

_VENDORS = re.compile(r"\b(nvidia|geforce|amd|instinct|radeon|tesla)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Catalogue:
    """GPUs and models by name."""

    gpus: Mapping[str, Gpu]
    models: Mapping[str, Model]

    def extended(self, gpus: Mapping[str, Gpu], models: Mapping[str, Model]) -> Catalogue:
        """With entries of the user's, which replace those of the same name."""
        return Catalogue({**self.gpus, **gpus}, {**self.models, **models})

    def with_kept(self, own: OwnHardware) -> Catalogue:
        """With entries that a run kept, except where this catalogue has others of the user's."""
        ships = builtin_catalogue()
        return Catalogue(
            {
                **self.gpus,
                **{k: v for k, v in own.gpus.items() if _as_ships(k, self.gpus, ships.gpus)},
            },
            {
                **self.models,
                **{k: v for k, v in own.models.items() if _as_ships(k, self.models, ships.models)},
            },
        )

    def gpu(self, hardware: str) -> Gpu | None:
        """The card that a declared name means; ``None`` when it is not known.

        A name that fits several cards (``H100``) stands for the best of each figure, so that
        what is computed from it bounds all of them.
        """
        asked = _plain(_VENDORS.sub("", hardware))
        if not asked:
            return None
        known = {_plain(name): gpu for name, gpu in self.gpus.items()}
        if asked in known:
            return known[asked]
        fitting = [
            gpu for name, gpu in known.items() if name.startswith(asked) or name.endswith(asked)
        ]
        if not fitting or len(asked) < 2:  # noqa: PLR2004 - a letter names nothing
            return None
        return Gpu(
            memory_gb=max(gpu.memory_gb for gpu in fitting),
            bandwidth_gb_s=max(gpu.bandwidth_gb_s for gpu in fitting),
            tflops={
                precision: max(gpu.tflops.get(precision, 0.0) for gpu in fitting)
                for precision in {p for gpu in fitting for p in gpu.tflops}
            },
        )

    def model(self, name: str) -> Model | None:
        """The shape of the model that a server names; ``None`` when it is not known.

        Names differ in punctuation and in what stands around the essential part
        (``meta-llama/Llama-3.1-8B-Instruct``, ``llama3.1:8b-instruct-q4_K_M``), so the longest
        catalogue name that a name contains decides.
        """
        asked = _plain(name)
        found = [key for key in self.models if _plain(key) in asked and _plain(key)]
        return self.models[max(found, key=lambda key: len(_plain(key)))] if found else None


@cache
def builtin_catalogue() -> Catalogue:
    """What ships with Headroom: ``data/gpus.toml`` and ``data/models.toml``, each with sources."""
    return Catalogue(
        msgspec.convert(_table("gpus.toml"), dict[str, Gpu]),
        msgspec.convert(_table("models.toml"), dict[str, Model]),
    )


def _table(name: str) -> dict[str, object]:
    return tomllib.loads(files("planner").joinpath("data", name).read_text(encoding="utf-8"))


def _as_ships(name: str, here: Mapping[str, object], ships: Mapping[str, object]) -> bool:
    """Whether the entry of a name, if any, is the one that ships."""
    return name not in here or here[name] == ships.get(name)


def _plain(name: str) -> str:
    """A name without case and punctuation."""
    return re.sub(r"[^a-z0-9]", "", name.casefold())
