"""What single families need; a family that is not here goes as transformers has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from et_pipeline.architecture import find_family
from et_pipeline.models.families import phi3

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ADAPTERS = {"phi3": phi3.adapt}


def adapt(model: PreTrainedModel) -> None:
    """Change a skeleton's modules in place, before it gets weights, where its family needs that."""
    name = model.config.get_text_config().model_type
    family = find_family(name)
    adapter = _ADAPTERS.get(name) or (family.adapt if family else None)
    if adapter is not None:
        adapter(model)
