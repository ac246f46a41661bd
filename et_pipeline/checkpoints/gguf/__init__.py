"""Turn a GGUF file into a checkpoint folder in Hugging Face layout, tensor by tensor.

Linears of the types Q4_0 and Q8_0 keep their integers and scales, in compressed-tensors' form (see `prequantized`):
they are symmetric groups of 32, as recipes have them. All else becomes floats.

Names, shapes and the order of rotary halves follow transformers' own tables for GGUF. What those tables leave out would
give a model that answers, but wrongly: a tensor that finds no place, or a rotary scaling that cannot be read back, is
refused here.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from et_pipeline.checkpoints.gguf.config import write_config
from et_pipeline.checkpoints.gguf.header import check_magic, open_file, trusting, value_of
from et_pipeline.checkpoints.gguf.tensors import Decoder, match, stored
from et_pipeline.checkpoints.gguf.tokenizer import write_tokenizer
from et_pipeline.checkpoints.shards import write_checkpoint
from et_pipeline.errors import UserError
from et_pipeline.settings import Frozen
from et_pipeline.worker import Tick

__all__ = ["GgufFile", "check_magic", "run"]


class GgufFile(Frozen):
    """The file to convert.

    Attributes:
        path: of the file, or of its first part.
        more: paths of the other parts, in order.
    """

    path: str
    more: tuple[str, ...] = ()


def run(inputs: dict[str, Path], out: Path, tick: Tick, file: GgufFile) -> dict[str, Any]:
    """Fill a folder with the checkpoint; see `worker.run_stage`.

    Raises:
        UserError: the file is damaged, or holds something that cannot be converted faithfully.
    """
    path = Path(file.path)
    reader = open_file(path, [Path(part) for part in file.more])
    with trusting(path, "metadata"):
        if value_of(reader, "general.type") == "adapter":
            raise UserError(
                f"{path} holds an adapter and no model: give it as model.adapter={path}, and the model that it is for "
                "as model.source"
            )
        architecture = str(value_of(reader, "general.architecture"))
        write_config(path, reader, architecture, out)
    with trusting(path, "tokenizer"):
        write_tokenizer(path, reader, out)
    sources, config = match(path, reader, architecture, out)
    plan = {tensor: source for name, source in sources.items() for tensor in stored(name, source)}
    decoder = Decoder(path, architecture, config)
    write_checkpoint(out, f"model.source={path}", list(plan), lambda t: decoder.pieces(t, plan[t]), tick)
    return {"parameters": sum(math.prod(source.shape) for source in sources.values())}
