"""What a GPU and a model are, as far as memory, bandwidth and arithmetic depend on them."""

from __future__ import annotations

from typing import Annotated

import msgspec

__all__ = ["Gpu", "Model", "OwnHardware"]

_GIGA = 1e9

Positive = Annotated[float, msgspec.Meta(gt=0, le=1e7)]
Count = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]


class Gpu(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One card, by the peaks that its maker states."""

    memory_gb: Positive  # decimal
    bandwidth_gb_s: Positive  # decimal
    # Precision -> dense peak of the matrix units.
    tflops: dict[str, Positive] = msgspec.field(default_factory=dict)
    source: str | None = None

    @property
    def memory_bytes(self) -> float:
        """Bytes of its memory."""
        return self.memory_gb * _GIGA

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """Bytes per second between its memory and its processors."""
        return self.bandwidth_gb_s * _GIGA

    @property
    def flops(self) -> float | None:
        """FLOP/s at the precision at which it has most; ``None`` when none is known."""
        return max(self.tflops.values()) * 1e12 if self.tflops else None


class Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shape of a decoder, as far as memory and bandwidth depend on it."""

    layers: Count
    kv_heads: Count
    head_dim: Count
    hidden: Count
    parameters_b: Positive  # thousand millions
    active_parameters_b: Positive | None = None  # used for one token; None: all
    vocabulary: Count | None = None
    tied_embeddings: bool = False  # the output matrix is the input embedding
    bits_per_weight: Positive | None = None  # None: as the model's name tells
    source: str | None = None

    @property
    def kv_values_per_token(self) -> int:
        """Numbers kept per token of context: 2 · layers · KV heads · head dimension."""
        return 2 * self.layers * self.kv_heads * self.head_dim

    @property
    def parameters(self) -> float:
        """All parameters, which must be in memory."""
        return self.parameters_b * _GIGA

    @property
    def parameters_read(self) -> float:
        """Parameters that are read to make one token.

        The active ones, without an input embedding of its own, of which one row is read.
        """
        lookup = 0 if self.tied_embeddings else (self.vocabulary or 0) * self.hidden
        return (self.active_parameters_b or self.parameters_b) * _GIGA - lookup


class OwnHardware(msgspec.Struct, frozen=True, kw_only=True):
    """What the user's ``--config`` adds to the catalogue that ships, by name."""

    gpus: dict[str, Gpu] = {}
    models: dict[str, Model] = {}
