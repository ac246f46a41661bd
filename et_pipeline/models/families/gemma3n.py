"""Gemma 3n's decoder in the form of a program: what transformers computes, in operators that delegates have.

Its layers keep several versions of each token, of which one goes through attention and feed-forward part, and the
others are predicted and corrected from it (AltUp, Baykal et al. 2023, arXiv:2301.13310). transformers has the versions
in front of the tokens and turns them around for each product; here they lie [tokens, versions, hidden size], where
prediction and correction are one product each; the version that is worked on is kept by itself too, as a part of all
of them would be cut out beside the delegate. Beside the attention runs a product of low rank (LAuReL, Menghani et al.
2024, arXiv:2411.07501). In the first layers all but the greatest few of a token's activations are cut off, at a
quantile of the normal distribution with their mean and deviation (You et al. 2025, arXiv:2506.06644).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutputWithPast

SMALLEST = 1e-5  # of a mean square, as in transformers


class Gemma3n:
    """Computes in place of a `Gemma3nTextModel`; its constants are the decoder's buffers."""

    def __init__(self, decoder: Any) -> None:
        """Give the decoder the buffers that this needs."""
        self.decoder, self.base = decoder, decoder.model.get_decoder()
        config = decoder.config
        self.active, self.versions = config.altup_active_idx, config.altup_num_inputs
        for size in {config.hidden_size, *config.intermediate_size}:
            decoder.register_buffer(f"mean_{size}", torch.full((1, size), 1.0 / size), persistent=False)
        others = torch.ones(1, self.versions, 1)
        others[:, 0] = 0
        decoder.register_buffer("other_versions", others, persistent=False)
        for number, layer in enumerate(self.base.layers):  # what AltUp says of the version that is worked on
            predicts, corrects = layer.altup.prediction_coefs.weight, layer.altup.correction_coefs.weight
            rows = predicts.view(self.versions, self.versions, -1)[self.active].detach().clone()
            decoder.register_buffer(f"predicts_active_{number}", rows, persistent=False)
            decoder.register_buffer(f"corrects_active_{number}", corrects[self.active, None].detach().clone(), False)
        self.deviations = {
            layer.mlp: torch.distributions.Normal(0, 1).icdf(torch.tensor(layer.mlp.activation_sparsity)).item()
            for layer in self.base.layers
            if layer.mlp.activation_sparsity > 0
        }

    @contextmanager
    def at(self) -> Iterator[None]:
        """Within the context the decoder's model computes as this class does."""
        with ExitStack() as patches:
            patches.enter_context(mock.patch.object(self.base, "forward", self.forward))
            for mlp, deviations in self.deviations.items():
                cut = partial(self._greatest, deviations=deviations)
                patches.enter_context(mock.patch.object(mlp, "_gaussian_topk", cut))
            yield

    def forward(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, past_key_values: Any, **kwargs: Any
    ) -> BaseModelOutputWithPast:
        """What goes into the head for the last token; see `Decoder.forward`."""
        base, last = self.base, slice(-1, None)
        embedded = base.embed_tokens(input_ids)
        per_layer = base.project_per_layer_inputs(embedded, base.get_per_layer_inputs(input_ids))
        kinds = self.decoder.config.layer_types
        angles = {kind: base.rotary_emb(embedded, position_ids, kind) for kind in sorted(set(kinds))}
        versions, shared = self._spread(embedded), dict[str, Any]()
        x, active = torch.cat(versions).transpose(0, 1), versions[self.active]
        for number in range(len(base.layers)):
            if number == self.decoder.first_late:  # nobody needs the other tokens' keys and values from here on
                x, active, per_layer = x[last], active[:, last], per_layer[:, last]
                angles = {kind: (cos[:, last], sin[:, last]) for kind, (cos, sin) in angles.items()}
            rest = {"past_key_values": past_key_values, "shared_kv_states": shared}
            x, active = self._layer(number, x, active, per_layer[:, :, number], angles[kinds[number]], rest)
        return BaseModelOutputWithPast(last_hidden_state=base.norm(self._joined(x[last])))

    def _mean(self, x: torch.Tensor) -> torch.Tensor:
        """Over the last dimension, kept as 1."""
        return functional.linear(x, self.decoder.get_buffer(f"mean_{x.shape[-1]}"))

    def _version(self, x: torch.Tensor, number: int) -> torch.Tensor:
        """One version of the tokens, [1, S, hidden size]."""
        return x.narrow(1, number, 1).transpose(0, 1)

    def _as_large(self, x: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        return x * size / torch.sqrt(torch.clamp(self._mean(x * x), min=SMALLEST))

    def _spread(self, embedded: torch.Tensor) -> list[torch.Tensor]:
        """The versions of embedded tokens, [1, S, hidden size] each."""
        size = torch.sqrt(self._mean(embedded * embedded))
        return [embedded, *(self._as_large(project(embedded), size) for project in self.base.altup_projections)]

    def _joined(self, x: torch.Tensor) -> torch.Tensor:
        """What the versions say together, [1, S, hidden size]."""
        total = self._version(x, 0)
        size = torch.sqrt(self._mean(total * total))
        for number, project in enumerate(self.base.altup_unembed_projections, start=1):
            total = total + self._as_large(project(self._version(x, number)), size)
        return total * (1 / self.versions)

    def _layer(
        self, number: int, x: torch.Tensor, active: torch.Tensor, per_layer: torch.Tensor, angles: Any, rest: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All versions of the tokens, and the active one by itself, behind a layer."""
        layer, tokens, versions = self.base.layers[number], x.shape[0], self.versions
        altup, buffer = layer.altup, self.decoder.get_buffer
        routed = altup.compute_router_modalities(active)
        shares = functional.linear(routed, buffer(f"predicts_active_{number}")).view(tokens, 1, versions)
        active = active + torch.bmm(shares, x).transpose(0, 1)
        x = x + torch.bmm(altup.prediction_coefs(routed).view(tokens, versions, versions), x)
        normal = layer.input_layernorm(active)
        beside = layer.laurel(normal)
        attended, _ = layer.self_attn(hidden_states=normal, position_embeddings=angles, attention_mask=None, **rest)
        attended = (active + layer.post_attention_layernorm(attended) + beside) * math.sqrt(0.5)
        fed = layer.mlp(layer.pre_feedforward_layernorm(attended))
        activated = attended + layer.post_feedforward_layernorm(fed)
        routed, changed = altup.compute_router_modalities(activated), activated - active
        x = x + (altup.correction_coefs(routed) + 1).view(tokens, versions, 1) * changed.transpose(0, 1)
        active = active + (functional.linear(routed, buffer(f"corrects_active_{number}")) + 1) * changed
        first = active * altup.correct_output_scale if self.decoder.config.altup_correct_scale else active
        first = layer.act_fn(layer.per_layer_input_gate(first)) * per_layer
        first = layer.post_per_layer_input_norm(layer.per_layer_projection(first))
        x = x + buffer("other_versions") * first.transpose(0, 1)
        return x, active + first if self.active else active

    def _greatest(self, x: torch.Tensor, deviations: float) -> torch.Tensor:
        """What of each row is more than so many standard deviations above its mean."""
        above = x - self._mean(x)
        return torch.relu(above - torch.sqrt(self._mean(above * above)) * deviations)
