"""acquire: read what a checkpoint says about its model, and prove that all that is read of it fits together."""

from __future__ import annotations

from pathlib import Path

from et_pipeline.architecture import check_context, layer_windows
from et_pipeline.checkpoints import auto_tokenizer, tokenizer
from et_pipeline.checkpoints.facts import Facts, read_facts
from et_pipeline.checkpoints.files import unused_files
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.generation import generation_warnings
from et_pipeline.checkpoints.reader import prepare
from et_pipeline.checkpoints.skeleton import config_warnings
from et_pipeline.manifest import TokenizerParity
from et_pipeline.runtime.embedding import for_one_text
from et_pipeline.settings import ExportForm
from et_pipeline.stages import Acquired
from et_pipeline.states import layer_states
from et_pipeline.worker import Tick


def glance(folder: Folder, form: ExportForm) -> Facts:
    """Read and check what needs no library of models: most mistakes are found here, in a tenth of a second.

    Raises:
        UserError: a file is missing, broken or does not fit the others, or the context is longer than the model's.
    """
    facts = read_facts(folder)
    check_context(form.max_context, facts.max_position)
    return facts


def run(inputs: dict[str, Path], out: Path, tick: Tick, *, form: ExportForm) -> Acquired:
    """Read and check all of the checkpoint but its weights; write `facts.json`, and the tokenizer for phones.

    Raises:
        UserError: as `glance`; or tensors do not fit the config, or phones would read the tokenizer otherwise.
    """
    folder = Folder(inputs["checkpoint"])
    facts = glance(folder, form)
    from et_pipeline.models.dry_run import check_attention  # not above: it imports torch

    model = prepare(folder).model
    if facts.pooling is None:
        check_attention(model, model.config.get_text_config())
    config = model.config
    # As the family's own class has it, with what it fills in where config.json says nothing.
    known = config.to_dict()
    windows = layer_windows(known, facts.layers)
    states = layer_states(known, windows, facts.kv_heads, facts.head_dim)
    facts = facts.model_copy(update={"windows": windows, "states": states})
    warnings = [*unused_files(folder), *config_warnings(folder)]
    warnings += generation_warnings(folder) if facts.pooling is None else []
    warnings += auto_tokenizer.check(folder, facts.chat, facts.pooling is not None)
    if facts.pooling is not None:
        for_one_text(folder.tokenizer, form.max_context).save(str(out / tokenizer.FILE))
    else:
        path = folder.path / tokenizer.FILE
        mended = tokenizer.mend(path, facts.vocab_size, out, facts.chat, facts.fed_bos_id)
        tokenizer.save(mended.content, out / tokenizer.FILE)
        warnings += [f"{path}: {sentence}" for sentence in mended.android]
        parity = TokenizerParity(
            runtime=tokenizer.runtime(), strings=mended.strings, mended=mended.sentences, android=mended.android
        )
        update = {"normalization": mended.normalization, "lstrip": mended.lstrip, "rstrip": mended.rstrip}
        facts = facts.model_copy(update={**update, "parity": parity})
    facts.write(out)
    tick(1, 1)
    return Acquired(parameters=facts.parameters, warnings=warnings)
