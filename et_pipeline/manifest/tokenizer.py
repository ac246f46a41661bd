"""How text becomes token ids."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from et_pipeline.manifest.fields import FileName, Model


class TokenizerParity(Model):
    """What the runtime's own tokenizer, which phones use, makes of texts, beside Hugging Face's on the original."""

    runtime: str = Field(
        description="The tokenizer that was compared and its version, such as 'pytorch_tokenizers 1.5.0'."
    )
    strings: int = Field(ge=1, description="Texts that were compared; all gave the same ids and the same text again.")
    mended: list[str] = Field(
        default=[],
        description="What was changed in the bundle's tokenizer so that they are the same, a sentence each; empty: it "
        "is the original's.",
    )
    android: list[str] = Field(
        default=[],
        description="What the older tokenizer in Android's library of ExecuTorch 1.3 still makes otherwise, a sentence "
        "each.",
    )


class Tokenizer(Model):
    """How text becomes token ids."""

    file: FileName = Field(description="Path of the tokenizer inside the bundle.")
    kind: Literal["hf-json"] = Field(default="hf-json", description="'hf-json': a Hugging Face tokenizer.json.")
    bos_id: int | None = Field(default=None, ge=0, description="Id of the begin-of-text token; null if it has none.")
    bos_token: str | None = Field(
        default=None,
        description="Text of that token: before a text it is encoded as the token. Android's library of ExecuTorch 1.3 "
        "has an option for it that does nothing.",
    )
    eos_ids: list[Annotated[int, Field(ge=0)]] = Field(
        description="Ids at which generation stops; never shown or fed. Of an embedding: none."
    )
    adds_bos: bool = Field(
        description="Whether encoding plain text puts the begin-of-text token first. Texts made from chat.segments are "
        "encoded without special tokens: the segments hold them already (see chat.add_bos)."
    )
    special_tokens: list[str] = Field(default=[], description="Texts of special tokens to hide from the user.")
    normalization: Literal["NFC", "NFD", "NFKC", "NFKD"] | None = Field(
        default=None,
        description="Unicode normalization to apply to each text before it is encoded, because the tokenizer's file "
        "leaves it to the caller; null: none. It may be applied to a whole prompt.",
    )
    lstrip: list[Annotated[str, Field(min_length=1)]] = Field(
        default=[],
        description="Added tokens that take the white space before them with them, which the runtime's tokenizer does "
        "not know: leave it out of each text before it is encoded, and before the normalization.",
    )
    rstrip: list[Annotated[str, Field(min_length=1)]] = Field(
        default=[], description="The same of white space behind these added tokens."
    )
    parity: TokenizerParity | None = Field(default=None, description="Null in a bundle of an older version.")
