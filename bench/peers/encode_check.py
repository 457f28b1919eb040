#!/usr/bin/env python3
"""How far encodings are from the truth: as velocity_check.py, for the VAE's encoder. The reference is diffusers in
float64; a faithful encoder errs no more than diffusers in float32.

    python bench/peers/encode_check.py --ebb build/cuda-release/bin/ebb --arch wan2.1-1.3b --work /tmp/check"""
import subprocess
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file

import common
from velocity_check import InFloat64


def moving_pictures(F, H, W):
    """Smooth pictures that move, [1,3,F,H,W] in [-1,1]: noise alone would be no test of a video encoder."""
    torch.manual_seed(7)
    low = torch.randn(1, 3, F // 8 + 3, H // 16 + 2, W // 16 + 2)
    return torch.nn.functional.interpolate(low, size=(F, H, W), mode="trilinear", align_corners=True).clamp(-2, 2) / 2


def diffusers_latents(values, state, dtype, tf32, device, video):
    torch.backends.cudnn.allow_tf32 = tf32
    vae = common.build(AutoencoderKLWan, values, device, torch.float32)
    vae.load_state_dict(state)
    vae = vae.to(dtype)
    mean, std = (torch.tensor(values[k], dtype=torch.float64).view(1, -1, 1, 1, 1) for k in ("latents_mean", "latents_std"))
    with torch.no_grad():
        z = vae.encode(video.to(device, dtype)).latent_dist.mode().double().cpu()
    return (z - mean) / std


def main():
    p = common.parser(__doc__)
    p.add_argument("--ebb", required=True, help="the ebb program")
    p.add_argument("--ebb-device", help="ebb's device, where it is another than --device")
    p.add_argument("--ebb-dtypes", default="float32,bfloat16", help="what ebb eval encode is asked for")
    p.add_argument("--work", type=Path, required=True, help="folder for weights and tensors")
    a = common.fill_in(p.parse_args())
    values = common.config(a, "vae")
    torch.manual_seed(0)
    vae = common.build(AutoencoderKLWan, values, "cpu", torch.float32)
    vae.save_pretrained(a.work / "vae")
    video, state = moving_pictures(a.frames, a.height, a.width), vae.state_dict()
    save_file({"video": video}, a.work / "video.safetensors")
    with InFloat64():
        reference = diffusers_latents(values, state, torch.float64, False, a.device, video)
    tell = lambda who, dtype, z: print(f"{who},{a.arch},{dtype},{((z - reference).norm() / reference.norm()).item():.4e}", flush=True)
    print("who,arch,dtype,relative_l2")
    for name, dtype, tf32 in (("float32", torch.float32, False), ("tf32", torch.float32, True), ("bfloat16", torch.bfloat16, False)):
        tell("diffusers", name, diffusers_latents(values, state, dtype, tf32, a.device, video))
    for dtype in a.ebb_dtypes.split(","):
        command = [a.ebb, "eval", "encode", "--model", a.work, "--in", a.work / "video.safetensors", "--out",
                   a.work / "latents.safetensors", "--dtype", dtype, "--device", a.ebb_device or a.device]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode:
            common.note(f"ebb {dtype} failed: {(done.stderr.strip().splitlines() or [done.returncode])[-1]}")
        else:
            tell("ebb", dtype, load_file(a.work / "latents.safetensors")["latents"].double())


if __name__ == "__main__":
    main()
