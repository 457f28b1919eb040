#!/usr/bin/env python3
"""How far velocities are from the truth: diffusers and ebb, in float32 and bfloat16, on the same random weights.

Writes a diffusers folder with random weights (make_model.py), draws inputs, evaluates diffusers in float64 as the
reference, and prints ||v - reference|| / ||reference|| for diffusers float32 (TF32 off), ebb float32, diffusers bfloat16
and ebb bfloat16. ebb must err no more than diffusers in float32, and at most twice as much in bfloat16. With --reference
float32, for what float64 is too slow or too large for, diffusers in float32 is the reference and has no row: the errors
are distances from it.

    python bench/peers/velocity_check.py --ebb build/cuda-release/bin/ebb --arch wan2.1-1.3b --work /tmp/check"""
import subprocess
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

import common
import make_model


def attention64(query, key, value, *_, scale=None, **__):
    """In float64, a stretch of queries at a time: the map of 32,760 tokens would not fit."""
    scale = scale or query.shape[-1] ** -0.5
    rows = max(1, (1 << 27) // (query.shape[0] * query.shape[1] * key.shape[2]))
    parts = [torch.softmax(q @ key.transpose(-1, -2) * scale, -1) @ value for q in query.split(rows, 2)]
    return torch.cat(parts, 2)


class InFloat64:
    """diffusers says .float() for norms and sums, which would take a float64 model down again."""

    def __enter__(self):
        self.float, self.attention = torch.Tensor.float, F.scaled_dot_product_attention
        narrow = self.float
        torch.Tensor.float = lambda t: t if t.dtype == torch.float64 else narrow(t)
        F.scaled_dot_product_attention = attention64

    def __exit__(self, *_):
        torch.Tensor.float, F.scaled_dot_product_attention = self.float, self.attention


def diffusers_velocity(folder, dtype, device, args):
    if dtype == torch.float64:
        model = WanTransformer3DModel.from_pretrained(folder / "transformer", torch_dtype=torch.float32)
        for p in [*model.parameters(), *model.buffers()]:
            p.data = p.data.double() if p.is_floating_point() else p.data
    else:
        model = WanTransformer3DModel.from_pretrained(folder / "transformer", torch_dtype=dtype)
    model = model.to(device).eval()
    cast = {"hidden_states": args["latents"].to(device, dtype), "encoder_hidden_states": args["text"].to(device, dtype),
            "timestep": args["timestep"].to(device, dtype if dtype == torch.float64 else torch.float32), "return_dict": False}
    with torch.no_grad():
        out = model(**cast)[0].double().cpu()
    del model
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    return out


def ebb_velocity(a, folder, dtype, work):
    command = [a.ebb, "eval", "velocity", "--velocity-only", "--model", folder, "--in", work / "in.safetensors", "--out",
               work / "out.safetensors", "--dtype", dtype, "--device", a.ebb_device or a.device]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        common.note(f"ebb {dtype} failed: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}")
        return None
    return load_file(work / "out.safetensors")["velocity"].double()


def check(a, work, shape, values):
    torch.manual_seed(7)
    text = torch.zeros(1, a.text, values["text_dim"])
    text[:, :a.words] = torch.randn(1, a.words, values["text_dim"])
    args = {"latents": torch.randn(1, values["in_channels"], *shape), "timestep": torch.tensor([500.0]), "text": text}
    save_file(args, work / "in.safetensors")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if a.reference == "float64":
        with InFloat64():
            reference = diffusers_velocity(work, torch.float64, a.device, args)
    else:
        reference = diffusers_velocity(work, torch.float32, a.device, args)
    tokens = shape[0] * shape[1] * shape[2] // 4
    if a.reference == "float32":
        common.note(f"{tokens} tokens: diffusers float32 is the reference: its own error is part of every error here")
    for dtype in ("float32", "bfloat16"):
        for who in ("diffusers", "ebb") if dtype != a.reference else ("ebb",):
            v = (ebb_velocity(a, work, dtype, work) if who == "ebb"
                 else diffusers_velocity(work, common.DTYPES[dtype], a.device, args))
            if v is not None:
                error = ((v - reference).norm() / reference.norm()).item()
                print(f"{who},{a.arch},{tokens},{dtype},{a.reference},{error:.4e}", flush=True)


def main():
    p = common.parser(__doc__)
    p.add_argument("--ebb", required=True, help="the ebb program")
    p.add_argument("--ebb-device", help="ebb's device, where it is another than --device")
    p.add_argument("--work", type=Path, required=True, help="folder for weights and tensors; weights there are used again")
    p.add_argument("--shapes", default="25x32x32,21x60x104", help="latents, frames x rows x columns: 6,400 and 32,760 tokens")
    p.add_argument("--reference", choices=["float64", "float32"], default="float64")
    a = common.fill_in(p.parse_args())
    if not (a.work / "transformer").is_dir():
        make_model.make(a.arch, "float32", a.work, a.device)
    values = common.config(a, "transformer")
    print("who,arch,tokens,dtype,reference,relative_l2")
    for text in a.shapes.split(","):
        check(a, a.work, tuple(map(int, text.split("x"))), values)


if __name__ == "__main__":
    main()
