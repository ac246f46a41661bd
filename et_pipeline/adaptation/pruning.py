"""Cut a decoder smaller: channels of the feed-forward layers, groups of heads, or whole layers.

What comes out is an ordinary checkpoint of its family, with as much of everything in each layer.
"""

from __future__ import annotations

import copy
import heapq
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from et_pipeline.adaptation.checkpoint import empty, load, parameters, save
from et_pipeline.checkpoints.folder import Folder
from et_pipeline.checkpoints.witness import sampled_config
from et_pipeline.errors import UserError
from et_pipeline.pruned import Width, choose_width, layers_to_drop
from et_pipeline.quantization.walk import alone, batches, input_of_layer, output, processor, without

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from et_pipeline.worker import Tick

TOKENS = 16_384  # that activations are measured on
KL_TOKENS = 1_024  # on which the loss of a layer is measured, again and again
DAMPING = 0.01  # of the mean diagonal, as in GPTQ (arXiv:2210.17323)


class Pruned(NamedTuple):
    """What was cut.

    Attributes:
        before: parameters of the original.
        after: parameters that are left.
        cut: in words.
    """

    before: int
    after: int
    cut: str


def prune_width(folder: Path, out: Path, size: float, texts: Sequence[Sequence[int]], tick: Tick) -> Pruned:
    """Cut feed-forward channels, then groups of a key-value head with its query heads, and write the checkpoint.

    Layer after layer, with the inputs that the layers before it give after their cut, those go that give least to the
    layer's output: activation times weight, as in Wanda (arXiv:2306.11695) and FLAP (arXiv:2312.11983). What the others
    can make up for is added to their weights by least squares (He et al. 2017, arXiv:1707.06168): the output matrix W
    becomes W H[:, kept] H[kept, kept]⁻¹, H being the sum of x xᵀ over its inputs x.

    Args:
        folder: the checkpoint, with float weights.
        out: where the smaller one goes.
        size: parameters that are left, as a share of all; as many go, or a few more for the sake of round numbers.
        texts: token ids, of which the first `TOKENS` are read.
        tick: takes how many layers are done, and how many there are.

    Raises:
        UserError: the family has other layers than those, or they cannot become so small.
    """
    model = load(folder, "prune_width")
    _check_layers(model, folder)
    old, width = _width(model.config), narrower(model.config, size)
    kept = _cut_layers(model, width, _beginning(texts, TOKENS), tick)
    config = _with_width(model.config, width)
    weights = {name: _cut(name, tensor, kept, model.config) for name, tensor in _named(model)}
    made = _fill(empty(config), weights, folder)
    save(made.to(_stored(folder)), folder, out)
    cut = [f"feed-forward channels {old.channels} to {width.channels}"] * (width.channels < old.channels)
    cut += [f"heads {old.heads} to {width.heads}"] * (width.heads < old.heads)
    return Pruned(parameters(model.config), parameters(config), ", ".join(cut))


def narrower(config: PreTrainedConfig, size: float) -> Width:
    """How wide the layers are that are left of a model; see `choose_width`."""
    return choose_width(_width(config), config.hidden_size, lambda width: parameters(_with_width(config, width)), size)


def prune_depth(folder: Path, out: Path, size: float, texts: Sequence[Sequence[int]], tick: Tick) -> Pruned:
    """Drop layers, one after the other, each time the one without which KL to the original grows least; write it.

    What leaving out one layer costs depends on which are gone, so that a whole block at once, as ShortGPT
    (arXiv:2403.03853) drops by similarity, is often not the best choice. Costs hardly fall as others go, so only
    layers that were cheap before are measured again (Minoux 1978, "Accelerated greedy algorithms").

    Args:
        folder: the checkpoint, with float weights.
        out: where the smaller one goes.
        size: parameters that are left, as a share of all, at the most.
        texts: token ids, of which the first `KL_TOKENS` are read.
        tick: takes how many layers are dropped or, of the first, measured, and how many will be.

    Raises:
        UserError: so few layers would be left that there is none.
    """
    model = load(folder, "prune_depth")
    layers = list(model.get_decoder().layers)
    before = parameters(model.config)
    drop = layers_to_drop(len(layers), before, parameters(sampled_config(Folder(folder), [0])), size)
    gone = _cheapest(model, drop, _beginning(texts, KL_TOKENS), tick)
    left = [number for number in range(len(layers)) if number not in gone]
    config = sampled_config(Folder(folder), left)
    decoder: Any = model.get_decoder()
    decoder.layers = nn.ModuleList([layers[number] for number in left])
    save(_fill(empty(config), dict(_named(model)), folder).to(_stored(folder)), folder, out)
    return Pruned(before, parameters(config), f"layers {', '.join(map(str, sorted(gone)))} of {len(layers)}")


def _cheapest(model: Any, count: int, texts: list[list[int]], tick: Tick) -> set[int]:
    """Numbers of the layers to drop."""
    model.to(processor())
    layers = list(model.get_decoder().layers)
    rows = [each.to(model.device) for each in batches(texts)]
    done, steps = 0, len(layers) + count - 1

    def logits() -> list[torch.Tensor]:
        with torch.no_grad():
            return [model(input_ids=each, use_cache=False).logits.log_softmax(-1) for each in rows]

    original = logits()

    def cost(gone: set[int]) -> float:
        with without(layers[number] for number in gone):
            pairs = zip(logits(), original, strict=True)
            sums = [functional.kl_div(a, b, reduction="sum", log_target=True).item() for a, b in pairs]
        return sum(sums) / sum(each.numel() for each in rows)

    known = []
    for number in range(len(layers)):
        known.append((cost({number}), number))
        done += 1
        tick(done, steps)
    heapq.heapify(known)
    gone = {heapq.heappop(known)[1]}
    while len(gone) < count:
        number = heapq.heappop(known)[1]
        now = cost(gone | {number})
        if known and now > known[0][0]:
            heapq.heappush(known, (now, number))
            continue
        gone.add(number)
        done += 1
        tick(done, steps)
    return gone


def _check_layers(model: PreTrainedModel, folder: Path) -> None:
    """Refuse layers that are not attention with one output matrix and a gated feed-forward layer."""
    decoder: Any = model.get_decoder()
    for layer in decoder.layers:
        names = dict(layer.named_modules())
        attention = "self_attn.qkv_proj" in names or {f"self_attn.{each}_proj" for each in "qkv"} <= names.keys()
        gated = "mlp.gate_up_proj" in names or {"mlp.gate_proj", "mlp.up_proj"} <= names.keys()
        if not (attention and gated and {"self_attn.o_proj", "mlp.down_proj"} <= names.keys()):
            raise UserError(
                f"{folder} is a {model.config.model_type}, whose layers prune_width does not know; it takes those of "
                "Llama, Mistral, Qwen2, Qwen3, Phi-3 and Gemma 3. Drop layers instead (prune_depth)"
            )


def _beginning(texts: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
    """The first texts, of that many tokens together."""
    found: list[list[int]] = []
    for text in texts:
        if tokens <= 0:
            break
        found.append(list(text[:tokens]))
        tokens -= len(text)
    return found


Kept = list[tuple[torch.Tensor, torch.Tensor]]
"""Of each layer, the numbers of its channels and of its groups of heads."""


def _cut_layers(model: Any, width: Width, texts: list[list[int]], tick: Tick) -> Kept:
    """Choose what stays in each layer; what goes gets no weight in the output matrix, the rest is made up for it."""
    decoder, layers, config = model.get_decoder(), list(model.get_decoder().layers), model.config
    model.to(processor())
    rows = [each.to(model.device) for each in batches(texts)]
    kept: Kept = []
    with torch.no_grad():
        hidden = [input_of_layer(decoder, layers[0], each) for each in rows]
        for number, layer in enumerate(layers):
            run = partial(_outputs, decoder, layer, hidden)
            with alone(decoder, layer):
                groups = _cut_inputs_of(layer.self_attn.o_proj, config.num_key_value_heads, width.groups, run)
                channels = _cut_inputs_of(layer.mlp.down_proj, config.intermediate_size, width.channels, run)
                hidden = run()
            kept.append((channels, groups))
            tick(number + 1, len(layers))
    model.cpu()
    return kept


def _outputs(decoder: Any, layer: nn.Module, hidden: list[torch.Tensor]) -> list[torch.Tensor]:
    return [output(decoder, layer, each) for each in hidden]


def _cut_inputs_of(linear: Any, blocks: int, count: int, run: Callable[[], Any]) -> torch.Tensor:
    """Numbers of the blocks that stay."""
    if count == blocks:
        return torch.arange(blocks)
    made, stays = cut_inputs(linear.weight, second_moments(linear, run), blocks, count)
    linear.weight.copy_(made)
    return stays.cpu()


def second_moments(linear: nn.Module, run: Callable[[], Any]) -> torch.Tensor:
    """The sum of x xᵀ over a linear's inputs, [inputs, inputs] float32, while something runs."""
    found: list[torch.Tensor] = []

    def add(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        rows = args[0].flatten(0, -2).float()
        found[:] = [rows.T @ rows + (found[0] if found else 0)]

    with linear.register_forward_pre_hook(add):
        run()
    return found[0]


def cut_inputs(weight: torch.Tensor, seen: torch.Tensor, blocks: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Leave out those blocks of a linear's inputs that give least to its output, and let the others make up for them.

    Args:
        weight: [outputs, inputs].
        seen: the sum of x xᵀ over inputs x, [inputs, inputs].
        blocks: how many the inputs are divided into.
        count: of them stay.

    Returns:
        The weight, 0 for what is left out, and the numbers of the blocks that stay, in order.
    """
    size = weight.shape[1] // blocks
    moments = seen.double() / seen.diagonal().mean()
    moments.diagonal().add_(DAMPING)
    own = torch.stack([moments[at : at + size, at : at + size] for at in range(0, len(moments), size)])
    parts = weight.double().reshape(len(weight), blocks, size).permute(1, 0, 2)  # [blocks, outputs, size]
    lost = (parts @ own * parts).sum((1, 2))  # tr(W_b H_bb W_bᵀ), the energy of what the block gives
    stays = lost.topk(count).indices.sort().values
    index = (stays[:, None] * size + torch.arange(size, device=stays.device)).flatten()
    made = torch.zeros_like(weight)
    solved = torch.linalg.solve(moments[index][:, index], moments[index] @ weight.double().T)
    made[:, index] = solved.T.to(weight.dtype)
    return made, stays


def _width(config: PreTrainedConfig) -> Width:
    return Width(config.intermediate_size, config.num_attention_heads, config.num_key_value_heads)


def _with_width(config: PreTrainedConfig, width: Width) -> PreTrainedConfig:
    made = copy.deepcopy(config)
    made.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for name, value in width.config.items():
        setattr(made, name, value)
    return made


def _named(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return list(model.state_dict().items())


def _cut(name: str, tensor: torch.Tensor, kept: Kept, config: PreTrainedConfig) -> torch.Tensor:
    """A tensor of the whole model as the narrower one has it."""
    parts = name.split(".")
    if "layers" not in parts or parts[-2][-5:] != "_proj":
        return tensor
    channels, groups = kept[int(parts[parts.index("layers") + 1])]
    size, queries = config.head_dim, config.num_attention_heads // config.num_key_value_heads

    def heads(count: int) -> torch.Tensor:
        """Rows of some heads per group."""
        return (groups[:, None] * count * size + torch.arange(count * size)).flatten()

    query, key = config.num_attention_heads * size, config.num_key_value_heads * size
    rows = {
        "gate_proj": [channels],
        "up_proj": [channels],
        "gate_up_proj": [channels, config.intermediate_size + channels],
        "q_proj": [heads(queries)],
        "k_proj": [heads(1)],
        "v_proj": [heads(1)],
        "qkv_proj": [heads(queries), query + heads(1), query + key + heads(1)],
    }
    columns = {"down_proj": channels, "o_proj": heads(queries)}
    if parts[-2] in columns:
        return tensor[:, columns[parts[-2]]] if tensor.dim() == 2 else tensor
    return tensor[torch.cat(rows[parts[-2]])]


def _fill(made: Any, weights: dict[str, torch.Tensor], folder: Path) -> PreTrainedModel:
    """Give a model on the meta device its weights, each of which has to fit.

    Raises:
        UserError: the family's layers hold more that depends on their width.
    """
    wrong = [
        name for name, tensor in made.state_dict().items() if name not in weights or weights[name].shape != tensor.shape
    ]
    if wrong or weights.keys() - made.state_dict().keys():
        raise UserError(f"{folder}: {made.config.model_type} is a family that cannot be cut like this ({wrong[0]})")
    made.load_state_dict(weights, assign=True)
    made.tie_weights()
    return made


def _stored(folder: Path) -> torch.dtype:
    """The type in which a checkpoint has its largest weights."""
    layout = Folder(folder).layout
    largest = max(layout.values(), key=lambda info: math.prod(info.shape))
    return {"BF16": torch.bfloat16, "F16": torch.float16}.get(largest.dtype, torch.float32)
