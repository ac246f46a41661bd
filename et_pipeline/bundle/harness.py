"""A bundle as a model of lm-evaluation-harness, by the name `et_bundle` in its registry (extra `eval`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_eval.api.registry import register_model

from et_pipeline.bundle.opened import open_bundle
from et_pipeline.chat_template import Message
from et_pipeline.errors import UserError
from et_pipeline.evaluation.harness import DeployedModel


@register_model("et_bundle")
class BundleModel(DeployedModel):
    """The program of a bundle, and its chat template where the harness is asked to apply it.

    Attributes:
        name: the bundle's, and the program's.
    """

    def __init__(self, bundle: str, threads: int | None = None, **_: Any) -> None:
        """Load a bundle's program.

        Args:
            bundle: the folder, or the .zip.
            threads: threads that compute; by default the runtime chooses.

        The harness hands on more, such as a batch size and a device, of which a program for phones has no choice.
        """
        with open_bundle(bundle, threads=threads) as opened:
            manifest, info = opened.manifest, opened.info
            if manifest.chat is None:
                raise UserError(f"{manifest.what.name} embeds texts, and the harness asks for answers.")
            super().__init__(opened.program, opened.tokenizer, manifest.tokenizer, info.max_context)
        self.name, self._form = f"{manifest.what.name}: {info.file}", manifest.chat.segments

    @property
    def tokenizer_name(self) -> str:
        """What the harness keeps requests under."""
        return self.name

    def chat_template(self, chat_template: bool | str = False) -> str:
        """What the harness writes down; it is the bundle's whatever is asked for."""
        return self._form.model_dump_json()

    def apply_chat_template(self, chat_history: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """The text of a chat; without generation prompt the last message is the beginning of an answer."""
        if add_generation_prompt:
            return self._form.render(chat_history)
        *said, begun = chat_history
        return self._form.render(said) + begun["content"]
