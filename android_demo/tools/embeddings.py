"""Bundles that embed texts, and the vectors that Python's runtime makes with them.

For the test that Android's library makes the same: all-MiniLM-L6-v2 itself, and a small random model that has prompts
and shorter vectors, as a program for texts of any length and as one for padded texts. Run with the project's own
Python: `python tools/embeddings.py OUT`.
"""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import real
from tokenizers import Tokenizer

from et_pipeline import open_bundle
from et_pipeline.backends import get_backend
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.pooling import read_pooling
from et_pipeline.checkpoints.reader import load_model
from et_pipeline.models.static_encoder import StaticEncoder, export_static_encoder, static_encoder_metadata
from et_pipeline.runtime.embedding import embed, for_one_text, with_prompt
from et_pipeline.runtime.program import Program

PADDED = 64  # tokens
DIMENSIONS = (32, 16)
TEXTS = (
    "A man is playing the guitar on stage.",
    "Where did I put the spare key?",
    "milk, bread, 12 eggs (free-range) & butter!",
    "",
    " ",
    "Café élite, naïve façade; Cafe\u0301.",
    "Die Bäckerei öffnet um sieben Uhr, auch am Sonntag.",
    "Приём у врача в четверг в девять часов.",
    "会議は三時に始まります。東京駅で会いましょう。",
    "나는 내일 아침에 공항에 갑니다.",
    "موعد الطبيب يوم الخميس.",
    "फ़ोन का चार्जर मेज़ पर है।",
    "สวัสดีครับ พรุ่งนี้เจอกัน",
    "🎸🎶 concert tonight 👩‍👩‍👧 ❤️",
    "[SEP] [MASK] <eos> ##ing \x00\u200b",
    "The meeting about the budget was moved to Thursday. " * 60,  # is cut
)


def main(out: Path) -> None:
    """Writes minilm/ and small/, bundles; padded.pte; and vectors.json."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    vectors = {}
    bundle = _bundle(out / "minilm", "model=minilm", "recipe=8da8w", f"model.source={real.minilm_weights()}")
    vectors["minilm"] = _vectors(bundle, None, None)
    bundle = _small(out / "small")
    for prompt in ("query", "document"):
        vectors[prompt] = _vectors(bundle, prompt, None)
    vectors["short"] = _vectors(bundle, "query", DIMENSIONS[1])
    vectors["padded"] = _padded(bundle)
    (out / "vectors.json").write_text(json.dumps(vectors, ensure_ascii=False) + "\n", encoding="utf-8")


def _small(folder: Path) -> Path:
    """A bundle of a small random model, and its program for padded texts."""
    make_embedder = runpy.run_path(str(Path(__file__).parents[2] / "tests" / "make_embedder.py"))["make_embedder"]
    checkpoint = folder.with_name("checkpoint")
    checkpoint.mkdir()
    make_embedder(checkpoint, "embeddinggemma")
    shorter = f"model.dimensions=[{','.join(map(str, DIMENSIONS))}]"
    source = ("model=custom_embedding", f"model.source={checkpoint}", "model.name=small", shorter)
    _bundle(folder, *source, "recipe=fp32", "model.max_context=128")
    encoder = StaticEncoder(load_model(checkpoint), read_pooling(Folder(checkpoint)), PADDED)
    program = export_static_encoder(encoder)
    get_backend("xnnpack").lower(program, static_encoder_metadata(encoder), folder.with_name("padded.pte"))
    shutil.rmtree(checkpoint)
    return folder


def _bundle(folder: Path, *overrides: str) -> Path:
    """Makes a bundle with the pipeline, and moves it to `folder`."""
    work = folder.with_name("work")
    work.mkdir()
    command = [
        str(Path(sys.executable).with_name("et-pipeline")),
        *overrides,
        "format=json",
        f"paths.cache={work / 'cache'}",
    ]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True)
    if done.returncode not in (0, 3):  # 3: the gate says no, as it may of a random model
        raise SystemExit(done.stderr)
    shutil.move(json.loads(done.stdout)["bundle"], folder)
    shutil.rmtree(work)
    return folder


def _vectors(folder: Path, prompt: str | None, dimension: int | None) -> list[dict[str, object]]:
    with open_bundle(folder, threads=1) as bundle:
        found = bundle.embed(TEXTS, prompt=prompt, dimension=dimension)
    return [{"text": text, "vector": vector.tolist()} for text, vector in zip(TEXTS, found, strict=True)]


def _padded(folder: Path) -> list[dict[str, object]]:
    """What the program for padded texts makes of them, as queries."""
    tokenizer = for_one_text(Tokenizer.from_file(str(folder / "tokenizer.json")), PADDED)
    with open_bundle(folder) as bundle:
        embedding = bundle.manifest.embedding
    assert embedding is not None
    texts = with_prompt(embedding, TEXTS, "query")
    program = Program(folder.with_name("padded.pte"), threads=1)
    vectors = [embed(program, tokenizer.encode(text).ids).tolist() for text in texts]
    return [{"text": text, "vector": vector} for text, vector in zip(TEXTS, vectors, strict=True)]


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
