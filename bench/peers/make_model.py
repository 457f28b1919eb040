#!/usr/bin/env python3
"""Writes a diffusers folder of an architecture with random weights: what ebb opens with --model.

    python bench/peers/make_model.py --arch wan2.1-1.3b --dtype bfloat16 --out /tmp/wan"""
import shutil
from pathlib import Path

from diffusers import AutoencoderKLWan, WanTransformer3DModel
import torch

import common


def make(arch, dtype, out, device="cpu", vae=False, seed=0):
    """The folder, as ebb and diffusers open it. vae: its weights too; its config is always there."""
    a = common.parser("").parse_args(["--arch", arch, "--device", device])
    a, out = common.fill_in(a), Path(out)
    torch.manual_seed(seed)
    common.build(WanTransformer3DModel, common.config(a, "transformer"), device, common.DTYPES[dtype]).save_pretrained(out / "transformer")
    (out / "vae").mkdir(parents=True, exist_ok=True)
    if vae:
        common.build(AutoencoderKLWan, common.config(a, "vae"), device, common.DTYPES["float32"]).save_pretrained(out / "vae")
    else:
        shutil.copy(a.folder / "vae" / "config.json", out / "vae" / "config.json")
    shutil.copytree(a.folder / "scheduler", out / "scheduler", dirs_exist_ok=True)


if __name__ == "__main__":
    p = common.parser(__doc__)
    p.add_argument("--out", required=True)
    a = p.parse_args()
    make(a.arch or "wan2.1-1.3b", a.dtype, a.out, a.device, vae=True)
