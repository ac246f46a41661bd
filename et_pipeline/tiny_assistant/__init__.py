"""tiny-assistant: the small language model that ships with the project, its text and its training.

It exists so that the whole road from a checkpoint to a verified bundle runs in minutes with nothing to download,
and so that task accuracy shows a broken quantization or a wrong KV cache at once.
"""

from pathlib import Path

#: The shipped model in the Hugging Face layout.
CHECKPOINT: Path = Path(__file__).resolve().parent / "checkpoint"

#: The held-out items, one JSON object per line: ``task``, ``messages`` and ``answer``.
EVAL: Path = Path(__file__).resolve().parent / "eval.jsonl"

#: Two LoRA adapters for it, as peft saves them: ``italian`` (travel phrases) and ``formal`` (a tone).
LORA: Path = Path(__file__).resolve().parent / "lora"
