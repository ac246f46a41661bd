"""What single families need; a family that is not here goes as transformers has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from et_pipeline.architecture import find_family
from et_pipeline.models.families import granitemoehybrid, lfm2, phi3, qwen3_5

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ADAPTERS = {
    "granitemoehybrid": granitemoehybrid.adapt,
    "lfm2": lfm2.adapt,
    "phi3": phi3.adapt,
    "qwen3_5_text": qwen3_5.adapt,
}


def adapt(model: PreTrainedModel) -> None:
    """Change a skeleton's modules in place, before it gets weights, where its family needs that."""
    name = model.config.get_text_config().model_type
    family = find_family(name)
    adapter = _ADAPTERS.get(name) or (family.adapt if family else None)
    if adapter is not None:
        adapter(model)
