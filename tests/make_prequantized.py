"""Write checkpoints that are quantized already, as the tools that people use write them.

bitsandbytes, torchao and compressed-tensors write theirs here by their own code. GPTQ's and AWQ's tools need a GPU, so
what they write is packed here, a word at a time, after their kernels' description.
"""

import json
import shutil

import numpy as np
import torch
from safetensors.torch import load_file, save_file

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # which column lies in a word's nibble, from the lowest


def pack(values, bits, order=None):
    """Unsigned integers [words * n, columns] as int32 [words, columns], n = 32 / bits to a word."""
    count = 32 // bits
    words = np.zeros((values.shape[0] // count, values.shape[1]), np.uint32)
    for place, row in enumerate(order or range(count)):
        words |= values[row::count].astype(np.uint32) << np.uint32(bits * place)
    return torch.from_numpy(words.view(np.int32))


def rounded(weight, bits, size, symmetric, index):
    """Unsigned integers [inputs, outputs], scales and zero points [groups, outputs] of a weight [outputs, inputs]."""
    top = 2**bits - 1
    columns = weight.T.numpy()
    integers = np.zeros(columns.shape, np.int64)
    scales, zeros = [], []
    for group in range(int(index.max()) + 1):
        members = columns[index == group]
        low, high = np.minimum(members.min(0), 0), np.maximum(members.max(0), 0)
        if symmetric:
            high = np.maximum(-low, high)
            low = -high
        scale = ((high - low) / top).astype(np.float16)
        zero = np.full(len(scale), (top + 1) // 2) if symmetric else np.round(-low / scale.astype(np.float32))
        integers[index == group] = np.clip(np.round(members / scale.astype(np.float32)) + zero, 0, top)
        scales.append(scale)
        zeros.append(zero.astype(np.int64))
    return integers, np.stack(scales), np.stack(zeros)


def is_linear(name):
    return ".layers." in name and name.endswith("proj.weight")


def write(checkpoint, out, settings, convert, wanted=is_linear):
    """A copy of a checkpoint in which `convert(stem, weight)` gives the tensors that replace a wanted weight."""
    shutil.copytree(checkpoint, out, ignore=shutil.ignore_patterns("SHA256SUMS", "*.safetensors"))
    tensors = {}
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        made = convert(name.removesuffix("weight"), tensor.float()) if wanted(name) else {name: tensor}
        tensors |= {key: value.contiguous().clone() for key, value in made.items()}
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    return out


def write_gptq(
    checkpoint, out, bits=4, size=32, symmetric=True, act_order=False, form="gptq", biases=False, wanted=is_linear
):
    """GPTQ's; floats by weight's name are in `expected.safetensors`."""
    random, expected = np.random.default_rng(0), {}

    def convert(stem, weight):
        width = weight.shape[1]
        index = np.arange(width) // (size if size > 0 else width)
        if act_order:
            index = index[random.permutation(width)]
        integers, scales, zeros = rounded(weight, bits, size, symmetric, index)
        steps = (integers - zeros[index]).astype(np.float32) * scales[index].astype(np.float32)
        expected[f"{stem}weight"] = torch.from_numpy(steps.T.copy())
        stored = (zeros - (form == "gptq")) & (2**bits - 1)
        made = {
            "qweight": pack(integers, bits),
            "qzeros": pack(stored.T, bits).T,
            "scales": torch.from_numpy(scales),
            "g_idx": torch.from_numpy(index.astype(np.int32)),
        }
        if biases:
            made["bias"] = torch.zeros(len(weight), dtype=torch.float16)
        return {f"{stem}{name}": value for name, value in made.items()}

    settings = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": size,
        "sym": symmetric,
        "desc_act": act_order,
        "checkpoint_format": form,
    }
    write(checkpoint, out, settings, convert, wanted)
    save_file(expected, out.with_name(f"{out.name}-expected.safetensors"))
    return out


def write_awq(checkpoint, out, size=32, symmetric=False, skipped=()):
    """AWQ's, in the layout of its GEMM kernel."""
    expected = {}

    def convert(stem, weight):
        index = np.arange(weight.shape[1]) // size
        integers, scales, zeros = rounded(weight, 4, size, symmetric, index)
        steps = (integers - zeros[index]).astype(np.float32) * scales[index].astype(np.float32)
        expected[f"{stem}weight"] = torch.from_numpy(steps.T.copy())
        return {
            f"{stem}qweight": pack(integers.T, 4, AWQ_ORDER).T,
            f"{stem}qzeros": pack(zeros.T, 4, AWQ_ORDER).T,
            f"{stem}scales": torch.from_numpy(scales),
        }

    settings = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": size,
        "zero_point": not symmetric,
        "version": "gemm",
        "modules_to_not_convert": list(skipped),
    }
    write(
        checkpoint, out, settings, convert, lambda name: is_linear(name) and not any(each in name for each in skipped)
    )
    save_file(expected, out.with_name(f"{out.name}-expected.safetensors"))
    return out


def write_compressed(checkpoint, out, wanted=is_linear, form="pack-quantized", order=None, **weights):
    """compressed-tensors', by its own compressors; `weights` are its QuantizationArgs, `order` permutes groups."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    args = QuantizationArgs(**weights)
    scheme = QuantizationScheme(targets=["Linear"], weights=args, format=form)
    compressor = BaseCompressor.get_value_from_registry(form)
    expected = {}

    def convert(stem, weight):
        size = args.group_size or weight.shape[1]
        groups = weight.unflatten(1, (-1, size))
        scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), args)
        state = {"weight": weight, "weight_scale": scale.to(torch.bfloat16), "weight_zero_point": zero}
        made = compressor.compress(state, scheme)
        expected[f"{stem}weight"] = compressor.decompress(made, scheme)["weight"].float()
        return {f"{stem}{name}": value for name, value in made.items()}

    settings = {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": json.loads(scheme.model_dump_json())},
        "ignore": ["lm_head"],
        "quantization_status": "compressed",
    }
    write(checkpoint, out, settings, convert, wanted)
    save_file(expected, out.with_name(f"{out.name}-expected.safetensors"))
    return out


def write_by_transformers(checkpoint, out, quantization):
    """Bitsandbytes' or torchao's, by transformers; returns the folder, and the model as transformers computes it."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, quantization_config=quantization, device_map="cpu", dtype=torch.float32
    )
    model.save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, out / name)
    return out
