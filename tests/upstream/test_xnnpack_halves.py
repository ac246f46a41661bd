from collections import Counter

from et_pipeline.backends import get_backend
from et_pipeline.checkpoints.reader import load_model
from et_pipeline.models.decoder import Decoder, export_decoder
from et_pipeline.settings import ExportForm


def test_what_is_read_of_a_cache_of_halves_is_widened_in_the_delegate(make_checkpoint, tmp_path):
    model = load_model(make_checkpoint("llama", num_hidden_layers=1))
    outside = []
    for kind in ("fp32", "fp16"):
        decoder = Decoder(model, ExportForm(max_context=64, prefill_chunk=16, kv_cache=kind))
        lowered = get_backend("xnnpack").lower(export_decoder(decoder), {}, tmp_path / "model.pte")
        outside.append(Counter(lowered.fallback_operators))
    assert outside[1] - outside[0] == {"aten::_to_copy.out": 2}  # new keys and values, which become halves
