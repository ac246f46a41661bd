"""What transformers' models take for their cache, where keys and values are kept in another place."""

from __future__ import annotations

from typing import Any

from transformers.cache_utils import Cache


class OwnCache(Cache):
    """A cache without storage; who derives from it says where keys and values go, and how long a mask is."""

    def __init__(self, layers: int) -> None:
        """Of a model with so many layers."""
        # Not super().__init__(): that allocates caches of its own.
        self.layers: list[Any] = []
        self.offloading, self.layer_class_to_replicate = False, None
        self.count = layers

    @property
    def is_sliding(self) -> list[bool]:
        """No layer has a cache of another kind to transformers: a window is the attention's matter."""
        return [False] * self.count

    @property
    def is_compileable(self) -> bool:
        """Its shapes do not grow."""
        return True

    def __len__(self) -> int:
        return self.count

    def get_seq_length(self, layer_idx: int = 0) -> Any:
        """Position of the first new token, where positions and masks are not given."""
        return 0

    def get_query_offset(self, layer_idx: int = 0) -> Any:
        """The same."""
        return self.get_seq_length(layer_idx)
