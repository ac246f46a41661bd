"""What ExecuTorch's Python runner answers, for the test that Android's library answers the same.

Run with the project's own Python (it needs executorch): `python tools/references.py BUNDLE OUT`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from et_pipeline import bundle as bundles
from et_pipeline import tiny_assistant
from et_pipeline.runtime.program import quiet, runtime_library

COUNT = 20


def prompts(folder: Path) -> list[tuple[str, int]]:
    """User messages and longest answers: held-out items of the built-in model, spread over its tasks."""
    limits = {name: task.max_new_tokens for name, task in bundles.peek(folder).tasks.items()}
    items = [json.loads(line) for line in tiny_assistant.EVAL.read_text(encoding="utf-8").splitlines()]
    single = [item for item in items if len(item["messages"]) == 1]
    chosen = single[:: len(single) // COUNT][:COUNT]
    return [(item["messages"][0]["content"], limits.get(item["task"], limits["chat"])) for item in chosen]


def main(folder: Path, out: Path) -> None:
    """Writes a list of {"prompt", "max_new_tokens", "text"}."""
    with bundles.open_bundle(folder) as opened, quiet():
        runtime_library()
        from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner

        manifest = opened.manifest
        program = manifest.main
        weights = str(folder / program.weights[0]) if program.weights else None
        runner = TextLLMRunner(str(folder / program.file), str(folder / manifest.tokenizer.file), weights)
        assert manifest.chat is not None, f"{folder} is no chat model"
        hidden = set(manifest.tokenizer.special_tokens)
        references = []
        for text, limit in prompts(folder):
            prompt = manifest.chat.segments.render([{"role": "user", "content": text}])
            pieces: list[str] = []
            runner.reset()
            config = GenerationConfig(echo=False, temperature=0.0, max_new_tokens=limit)
            runner.generate(prompt, config, pieces.append, None)
            answer = "".join(piece for piece in pieces if piece not in hidden)
            references.append({"prompt": prompt, "max_new_tokens": limit, "text": answer})
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(references, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
