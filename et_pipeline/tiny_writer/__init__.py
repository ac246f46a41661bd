"""tiny-writer: a small Qwen3 that continues English prose, to measure recipes on natural text.

tiny-assistant knows the sentences of its grammars, and its training rounded weights to four bits. This model did
neither, so it loses by quantization what ordinary models lose.
"""

from pathlib import Path

#: The shipped model in the Hugging Face layout.
CHECKPOINT: Path = Path(__file__).resolve().parent / "checkpoint"
