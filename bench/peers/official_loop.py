#!/usr/bin/env python3
"""Times the official protocol's inversion loop, written anew on diffusers, as `bench invert --part speed` times ours.

What the official code does with a batch (its defaults for Wan): the VAE encodes clip after clip in bfloat16; latents are
float32, the network bfloat16, Euler with the label of the step's end; at a captured step hooks bring every block's whole
states to the host as float32, which are averaged over tokens there and saved, one file a video. Random weights. With
--steps below the protocol's 100, --captures of them are captured all the same, and the row says what ran, not more."""
import tempfile
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

import common


def sigmas(steps, shift=3.0):
    """[steps + 1], ascending from 0: flow sigmas with static shift."""
    s = torch.linspace(1, 1 / 1000, steps + 1, dtype=torch.float64)[:-1]
    return torch.cat((shift * s / (1 + (shift - 1) * s), torch.zeros(1, dtype=torch.float64))).flip(0)


def encode(vae, clips):
    return torch.cat([vae.encode(clip[None]).latent_dist.mode() for clip in clips]).float()


def captured_at(steps, captures):
    return {round(i * (steps - 1) / max(1, captures - 1)) for i in range(captures)}


def loop(a, model, vae, clips, text, folder):
    """Seconds of encoding, of steps that are not captured, of those that are; and how many there were of them."""
    parts, counts, kept, capturing = [0.0, 0.0, 0.0], [0, 0, 0], [], False
    hooks = [b.register_forward_hook(lambda _m, _i, out: kept.append((out[0] if isinstance(out, tuple) else out).detach()
                                                                      .float().cpu()) if capturing else None) for b in model.blocks]

    def spent(part, start):
        common.wait(a.device)
        parts[part] += time.perf_counter() - start
        counts[part] += 1

    start = time.perf_counter()
    z = encode(vae, clips)
    spent(0, start)
    grid, wanted = sigmas(a.steps), captured_at(a.steps, a.captures)
    for i in range(a.steps):
        start, capturing = time.perf_counter(), i in wanted
        label = torch.full((z.shape[0],), int(1000 * grid[i + 1]), device=a.device)
        v = model(hidden_states=z.to(common.DTYPES[a.dtype]), encoder_hidden_states=text, timestep=label, return_dict=False)[0].float()
        z = z + float(grid[i + 1] - grid[i]) * v
        if capturing:
            means = torch.stack(kept).mean(2)  # [blocks, batch, width], on the host
            kept.clear()
            for video in range(means.shape[1]):
                out = Path(folder) / f"{video:04d}" / f"step_{i:04d}"
                out.mkdir(parents=True, exist_ok=True)
                torch.save(means[:, video:video + 1].clone(), out / "block_outputs.pt")
        spent(2 if capturing else 1, start)
    for h in hooks:
        h.remove()
    return parts, counts


def main():
    p = common.parser(__doc__)
    p.add_argument("--steps", type=int, default=100)
    p.add_argument("--captures", type=int, default=11)
    a = common.fill_in(p.parse_args())
    if not 1 <= a.captures <= a.steps:
        common.fail(f"--captures {a.captures}: expected 1 to --steps, {a.steps}")
    sheet = common.Sheet(a.device, a.dtype)
    dtype = common.DTYPES[a.dtype]
    values = common.config(a, "transformer")
    model = common.build(WanTransformer3DModel, values, a.device, dtype)
    vae = common.build(AutoencoderKLWan, common.config(a, "vae"), a.device, dtype)
    clips = (torch.rand(a.batch, 3, a.frames, a.height, a.width, device=a.device) * 2 - 1).to(dtype)
    text = common.inputs(a, dtype, values["text_dim"])["encoder_hidden_states"]
    shape = "x".join(map(str, a.latent))
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        vae.encode(clips[:1])  # warm
        model(hidden_states=torch.zeros(a.latent, device=a.device, dtype=dtype), encoder_hidden_states=text,
              timestep=torch.full((a.batch,), 500, device=a.device), return_dict=False)
        common.wait(a.device)
        parts, counts = loop(a, model, vae, clips, text, folder)
    names = ("encode, all clips", "inversion step, no capture", "inversion step, whole states to host")
    for name, seconds, count in zip(names, parts, counts):
        if count:
            sheet.row("diffusers", name, "official loop", shape, a.dtype, (seconds / count, seconds / count, count))
    total = sum(parts)
    sheet.row("diffusers", "inversion", f"official loop, {a.steps} steps, {a.captures} captured", shape, a.dtype, (total, total, 1))
    common.note(f"{3600 * a.batch / total:.1f} videos an hour: {a.batch} videos in {total:.2f} s, clips in memory to files")


main()
