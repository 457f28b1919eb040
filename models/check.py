#!/usr/bin/env python3
"""Looks at a trained folder with PyTorch and diffusers alone, without the engine: pictures and probe accuracies.

    python models/check.py --model models/tiny-wan --movies DIR --out DIR

DIR of --movies is in the IntPhys layout. Pictures: movies above their VAE reconstructions; samples of each
transformer. Probes: every movie is encoded, carried backward to noise by Euler steps (the label of a step is that of
the noisier end, as the official code pairs them), the states of every block are averaged over tokens, and an L2
logistic probe, standardised inside the fold, tells possible from impossible; quadruplets are never split.
"""
import argparse
import csv
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from PIL import Image

from train import decode, encode, to_unit, whole_movie


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    a = p.add_argument
    a("--model", type=Path, required=True)
    a("--movies", type=Path, help="possible and impossible movies in the IntPhys layout")
    a("--out", type=Path, required=True)
    a("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    a("--models", nargs="+", default=["transformer", "transformer_lawless", "random"])
    a("--steps", type=int, default=20)
    a("--draw-steps", type=int, default=50)
    a("--seeds", type=int, default=5, help="random 60/40 splits by quadruplet")
    a("--l2", type=float, nargs="+", default=[3.0, 30.0, 300.0], help="penalties; the nested figure chooses among them")
    return p.parse_args()


# -------------------------------------------------------------------------------------------------------- movies

def read_movies(folder):
    """uint8 [N,F,H,W,3], possible [N], group [N] (quadruplet), category [N] (1..3)."""
    places = sorted(p.parent for p in folder.glob("O*/*/*/status.json"))

    def read(place):
        frames = sorted((place / "scene").glob("*.png"))
        return np.stack([np.asarray(Image.open(f).convert("RGB")) for f in frames])

    with ThreadPoolExecutor(16) as pool:
        video = torch.from_numpy(np.stack(list(pool.map(read, places))))
    possible = [json.loads((p / "status.json").read_text())["header"]["is_possible"] for p in places]
    names = [f"{p.parts[-3]}/{p.parts[-2]}" for p in places]
    index = {n: i for i, n in enumerate(sorted(set(names)))}
    return (video, torch.tensor(possible, dtype=torch.float64), torch.tensor([index[n] for n in names]),
            torch.tensor([int(n[1]) for n in names]))


def contact_sheet(path, movies, columns=9):
    """movies uint8 [N,F,H,W,3]: a row a movie, frames evenly spaced."""
    pick = np.linspace(0, movies.shape[1] - 1, columns).round().astype(int)
    rows = [np.concatenate([m[t] for t in pick], 1) for m in movies.cpu().numpy()]
    sheet = Image.fromarray(np.concatenate(rows, 0))
    sheet.resize((sheet.width * 2, sheet.height * 2), Image.NEAREST).save(path, optimize=True)


def to_bytes(x):
    """[B,3,F,H,W] in [-1,1] -> uint8 [B,F,H,W,3]."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1)


# ----------------------------------------------------------------------------------------------------- inversion

def schedule(folder, steps):
    """sigma [n+1] and label [n], from clean to noise; label i is that of sigma i+1."""
    s = UniPCMultistepScheduler.from_pretrained(folder / "scheduler")
    s.set_timesteps(steps)
    return s.sigmas.flip(0).tolist(), s.timesteps.flip(0).tolist()


@torch.no_grad()
def invert(net, latents, sigmas, labels, text_dim, batch=180):
    """Block states along the inversion: [N, n, L, T, D] averaged over the tokens of a latent frame."""
    out, frames = [], latents.shape[2]
    for x in latents.split(batch):
        states, text = [], x.new_zeros(len(x), 1, text_dim)
        hooks = [b.register_forward_hook(lambda m, i, o: states.append(o.unflatten(1, (frames, -1)).mean(2)))
                 for b in net.blocks]
        for i, label in enumerate(labels):
            v = net(x, x.new_full([len(x)], label), text, return_dict=False)[0]
            x = x + (sigmas[i + 1] - sigmas[i]) * v
        for h in hooks:
            h.remove()
        out.append(torch.stack(states, 1).unflatten(1, (len(labels), len(net.blocks))))
    return torch.cat(out)


@torch.no_grad()
def draw(net, noise, sigmas, labels, text_dim):
    x, text = noise, noise.new_zeros(len(noise), 1, text_dim)
    for i in reversed(range(len(labels))):
        v = net(x, x.new_full([len(x)], labels[i]), text, return_dict=False)[0]
        x = x + (sigmas[i] - sigmas[i + 1]) * v
    return x


# -------------------------------------------------------------------------------------------------------- probes

def fit(train, y, test, l2, rounds=15):
    """L2 logistic regression of K features at once. train [K,n,D], y [n] in {0,1}, test [K,m,D] -> margins [K,m].
    Newton in the dual (n unknowns): w = train' a; the constant column stands for an unpenalised bias."""
    mean, std = train.mean(1, keepdim=True), train.std(1, keepdim=True).clamp(min=1e-8)
    train, test = (train - mean) / std, (test - mean) / std
    gram, cross = train @ train.mT + 100.0, test @ train.mT + 100.0
    f = torch.zeros_like(gram[..., 0])
    eye = l2 * torch.eye(len(y), dtype=gram.dtype, device=gram.device)
    for _ in range(rounds):
        p = torch.sigmoid(f)
        w = (p * (1 - p)).clamp(min=1e-9)
        r = w.sqrt()
        z = r * (f + (y - p) / w)
        a = r * torch.cholesky_solve(z[..., None], torch.linalg.cholesky(r[..., None] * gram * r[..., None, :] + eye))[..., 0]
        f = (gram @ a[..., None])[..., 0]
    return (cross @ a[..., None])[..., 0]


def metrics(s, y, group):
    """Margins [K,m] -> accuracy, AUC, pairwise accuracy (possible against impossible of its quadruplet), [K] each."""
    accuracy = ((s > 0) == (y > 0.5)).double().mean(1)
    d = s[:, y > 0.5][:, :, None] - s[:, y < 0.5][:, None, :]
    win = (d > 0).double() + 0.5 * (d == 0).double()
    same = (group[y > 0.5][:, None] == group[y < 0.5][None, :]).double()
    return accuracy, win.mean((1, 2)), (win * same).sum((1, 2)) / same.sum()


def probe(x, y, group, args):
    """x [n,K,D]. Held-out metrics [K] of the middle penalty averaged over splits, and of the nested choice: cell and
    penalty picked by a second split inside the training part, scored on quadruplets that chose nothing."""
    x = x.to(torch.float64).transpose(0, 1)
    cells, nested, ids = [], [], group.unique()
    for seed in range(args.seeds):
        g = torch.Generator().manual_seed(seed)
        order = ids[torch.randperm(len(ids), generator=g).to(ids.device)]
        n = len(ids) * 6 // 10
        tr, te = (torch.isin(group, part).nonzero()[:, 0] for part in (order[:n], order[n:]))
        inner, val = (torch.isin(group, part).nonzero()[:, 0] for part in (order[:n * 2 // 3], order[n * 2 // 3:n]))
        best = (-1.0, 0, 0)
        for l2 in args.l2:
            accuracy = metrics(fit(x[:, inner], y[inner], x[:, val], l2), y[val], group[val])[0]
            best = max(best, (accuracy.max().item(), accuracy.argmax().item(), l2))
        k = best[1]
        nested.append([m.item() for m in metrics(fit(x[k:k + 1, tr], y[tr], x[k:k + 1, te], best[2]), y[te], group[te])])
        cells.append(torch.stack(metrics(fit(x[:, tr], y[tr], x[:, te], args.l2[len(args.l2) // 2]), y[te], group[te])))
    return torch.stack(cells).mean(0), np.mean(nested, 0)


def main():
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("highest")
    dev, start = args.device, time.time()
    vae = whole_movie(AutoencoderKLWan.from_pretrained(args.model / "vae"), dev).eval()
    mean, std = (torch.tensor(v, device=dev).view(1, -1, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
    nets = {}
    for name in args.models:
        if name == "random":
            torch.manual_seed(1)
            config = WanTransformer3DModel.load_config(args.model / "transformer")
            nets[name] = WanTransformer3DModel.from_config(config).to(dev).eval()
        else:
            nets[name] = WanTransformer3DModel.from_pretrained(args.model / name).to(dev).eval()
    text_dim = next(iter(nets.values())).config.text_dim

    video, possible, group, category = read_movies(args.movies)
    possible, group, category = possible.to(dev), group.to(dev), category.to(dev)
    with torch.no_grad():
        z = torch.cat([(encode(vae, to_unit(v.to(dev)))[0] - mean) / std for v in video.split(36)])  # [N,C,T,h,w]
        show = [i for i in range(0, len(video), max(1, len(video) // 6))][:6]
        back = to_bytes(decode(vae, z[show] * std + mean)).cpu()
        contact_sheet(args.out / "reconstructions.png", torch.stack([video[show], back], 1).flatten(0, 1))
        for name in (n for n in nets if n != "random"):
            g = torch.Generator(dev).manual_seed(5)
            noise = torch.randn(8, *z.shape[1:], generator=g, device=dev)
            x = draw(nets[name], noise, *schedule(args.model, args.draw_steps), text_dim)
            contact_sheet(args.out / f"samples_{name}.png", to_bytes(decode(vae, x * std + mean)))
    print(f"{len(video)} movies encoded, samples drawn, {time.time()-start:.0f} s", flush=True)

    dz = (z[:, :, 1:] - z[:, :, :-1]).abs()
    features = {("vae", "mean"): z.mean((2, 3, 4))[:, None], ("vae", "temporal |dz|"): dz.mean((2, 3, 4))[:, None],
                ("vae", "per frame"): z.mean((3, 4)).flatten(1)[:, None]}
    sigmas, labels = schedule(args.model, args.steps)
    rows = []

    def report(model, readout, x, shape=None):
        for c in (1, 2, 3):
            at = category == c
            cells, nested = probe(x[at], possible[at], group[at], args)
            k = cells[0].argmax().item()
            for i, m in enumerate(cells.T.tolist()):
                step, block = (divmod(i, shape[1])) if shape else ("", "")
                rows.append([model, readout, f"O{c}", step, block] + [round(v, 4) for v in m])
            place = f"step {k // shape[1]} block {k % shape[1]}" if shape else ""
            print(f"{model:20s} {readout:14s} O{c}  best cell {cells[0, k]:.3f} auc {cells[1, k]:.3f} pair {cells[2, k]:.3f}"
                  f"  nested {nested[0]:.3f} auc {nested[1]:.3f} pair {nested[2]:.3f}  {place}", flush=True)
            if shape:
                grid = cells[0].view(shape)
                print("    by block", [round(v, 2) for v in grid.amax(0).tolist()], "by step",
                      [round(v, 2) for v in grid.amax(1).tolist()], flush=True)

    for (model, readout), x in features.items():
        report(model, readout, x)
    for name, net in nets.items():
        h = invert(net, z, sigmas, labels, text_dim)  # [N,n,L,T,D]
        shape = h.shape[1:3]
        report(name, "mean", h.mean(3).flatten(1, 2), shape)
        half = h[:, ::4, 1::2]
        report(name, "per frame", half.flatten(1, 2).flatten(2), half.shape[1:3])
    with open(args.out / "probes.csv", "w", newline="") as f:
        w = csv.writer(f, lineterminator="\n")
        w.writerow(["model", "readout", "category", "step", "block", "accuracy", "auc", "pairwise"])
        w.writerows(rows)
    print(f"{time.time()-start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
