#!/usr/bin/env python3
"""Times diffusers' AutoencoderKLWan.encode with random weights on one clip, as `bench step --vae` does.

Variants: bfloat16; tf32, float32 with TF32 convolutions (torch's default on NVIDIA); float32, without; channels-last,
bfloat16 in NDHWC."""
import torch
from diffusers import AutoencoderKLWan

import common


def run(a, sheet, variant):
    dtype = torch.bfloat16 if variant in ("bfloat16", "channels-last") else torch.float32
    torch.backends.cudnn.allow_tf32 = variant == "tf32"
    vae = common.build(AutoencoderKLWan, common.config(a, "vae"), a.device, dtype)
    video = (torch.rand(1, 3, a.frames, a.height, a.width, device=a.device) * 2 - 1).to(dtype)
    if variant == "channels-last":
        video = video.to(memory_format=torch.channels_last_3d)
        for p in vae.parameters():
            if p.dim() == 5:
                p.data = p.data.to(memory_format=torch.channels_last_3d)
    with torch.no_grad():
        timed = common.measure(lambda: vae.encode(video).latent_dist.mode(), a.device, a.seconds, warm=1)
    who = "diffusers NDHWC" if variant == "channels-last" else "diffusers"
    name = "bfloat16" if variant == "channels-last" else variant
    sheet.row(who, "vae encode", "one clip", "x".join(map(str, video.shape)), name, timed)


def main():
    p = common.parser(__doc__)
    p.add_argument("--variants", default="bfloat16,tf32", help="of bfloat16,tf32,float32,channels-last")
    a = common.fill_in(p.parse_args())
    sheet = common.Sheet(a.device, a.dtype)
    for variant in a.variants.split(","):
        if variant not in ("bfloat16", "tf32", "float32", "channels-last"):
            common.fail(f"--variants: '{variant}' is not known: expected bfloat16, tf32, float32, channels-last")
        run(a, sheet, variant)


main()
