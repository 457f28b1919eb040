#!/usr/bin/env python3
"""Trains the small Wan models that ship with ebb: one VAE and two twin transformers, on the built-in worlds.

    python models/train.py --data DIR --out models/tiny-wan

DIR holds the bulk form of the worlds (loaders/synth.h): lawful-*.safetensors and lawless-*.safetensors, each with
"video" U8 [count, frames, size, size, 3]. The networks are diffusers' own AutoencoderKLWan and
WanTransformer3DModel with small configurations, so what is written is an ordinary diffusers folder:

    vae/                  the autoencoder, trained on lawful movies only
    transformer/          flow matching on the latents of lawful movies
    transformer_lawless/  its twin: same start, same steps, trained on the lawless world
    training/             arguments, loss curves, measured quality

Weights are averages over training (EMA), rounded to float16; every figure printed at the end is measured with the
rounded weights. One GPU does the stages in a row. With several (an even number),

    torchrun --standalone --nproc_per_node 4 models/train.py --data DIR --out models/tiny-wan

all of them train the VAE, then one half trains the lawful and the other the lawless transformer; batch sizes are
totals over the GPUs of a network. Same seed, data, software and number of GPUs give the same draws; GPU reductions are
not ordered, so weights agree closely, not bit by bit.

Letters: B batch, F frames, H height, W width of a movie; C channels, T h w of its latent, T = 1 + (F-1)/4.
"""
import argparse
import copy
import csv
import json
import math
import os
import time
import types
from pathlib import Path

import diffusers
import torch
import torch.distributed as dist
import torch.nn.functional as F
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample
from safetensors import safe_open
from safetensors.torch import save_file


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    a = p.add_argument
    a("--data", type=Path, required=True, help="folder with lawful-*.safetensors and lawless-*.safetensors")
    a("--out", type=Path, required=True, help="diffusers folder to write")
    a("--stage", choices=["all", "vae", "transformer"], default="all")
    a("--world", choices=["both", "lawful", "lawless"], default="both", help="which twin to train")
    a("--seed", type=int, default=0)
    a("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    a("--held-out", type=int, default=256, help="last movies of each world, kept out of all training")
    a("--seconds", type=float, default=math.inf, help="limit for the whole run: fewer transformer steps if they do not fit")
    a("--no-compile", action="store_true", help="plain PyTorch: no torch.compile, no CUDA graph")
    g = p.add_argument_group("VAE").add_argument
    g("--base-dim", type=int, default=24)
    g("--dim-mult", type=int, nargs=4, default=[1, 2, 4, 4])
    g("--res-blocks", type=int, default=1)
    g("--z-dim", type=int, default=8)
    g("--init-vae", type=Path, help="a trained vae folder to start from")
    g("--vae-movies", type=int, default=65536, help="movies for the VAE at most, 400 KB of device memory each")
    g("--vae-steps", type=int, default=8000)
    g("--vae-seconds", type=float, default=math.inf, help="limit for the VAE: fewer steps if they do not fit")
    g("--vae-batch", type=int, default=24)
    g("--clip", type=int, default=33, help="frames of a training clip, 4k+1; with shorter clips later frames lose colour")
    g("--vae-lr", type=float, default=8e-4)
    g("--moving", type=float, default=8.0, help="extra weight of pixels that differ from the movie's median frame")
    g("--gradient", type=float, default=0.5, help="weight of the L1 of spatial differences")
    g("--kl", type=float, default=5e-4, help="weight of the KL, mean over latent elements")
    g("--vae-ema", type=float, default=0.999)
    g = p.add_argument_group("transformer").add_argument
    g("--movies", type=int, default=0, help="movies to train on, 0 for all")
    g("--heads", type=int, default=6)
    g("--head-dim", type=int, default=32)
    g("--layers", type=int, default=10)
    g("--ffn", type=int, default=768)
    g("--text-dim", type=int, default=32)
    g("--steps", type=int, default=20000)
    g("--batch", type=int, default=256)
    g("--lr", type=float, default=8e-4)
    g("--weight-decay", type=float, default=0.01)
    g("--ema", type=float, default=0.9995)
    g("--sigma-mean", type=float, default=0.0, help="sigma = shift(sigmoid(normal(mean, std)))")
    g("--sigma-std", type=float, default=1.0)
    g("--sigma-shift", type=float, default=3.0, help="shift(s) = k s / (1 + (k-1) s)")
    return p.parse_args()


# ---------------------------------------------------------------------------------------------------- movies

class Movies:
    """The shards WORLD-*.safetensors of a folder as one list of movies, read in pieces."""

    def __init__(self, folder, world):
        self.files = sorted(folder.glob(f"{world}-*.safetensors"))
        if not self.files:
            raise SystemExit(f"{folder}: no {world}-*.safetensors")
        self.counts = []
        for f in self.files:
            with safe_open(f, framework="pt") as s:
                n, *self.shape = s.get_slice("video").get_shape()
                self.counts.append(n)

    def __len__(self):
        return sum(self.counts)

    def pieces(self, first, last, size=512):
        """uint8 [n, F, H, W, 3] with n <= size, movies first .. last-1 in order."""
        base = 0
        for f, n in zip(self.files, self.counts):
            lo, hi = max(first - base, 0), min(last - base, n)
            if lo < hi:
                with safe_open(f, framework="pt") as s:
                    video = s.get_slice("video")
                    for i in range(lo, hi, size):
                        yield video[i:min(i + size, hi)]
            base += n

    def load(self, first, last, device):
        out = torch.empty([last - first, *self.shape], dtype=torch.uint8, device=device)
        at = 0
        for piece in self.pieces(first, last):
            out[at:at + len(piece)] = piece.to(device)
            at += len(piece)
        return out


def to_unit(video):
    """uint8 [B, F, H, W, 3] -> float [B, 3, F, H, W] in [-1, 1]; memory stays channels-last."""
    return video.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


# ------------------------------------------------------------------------------------------------ shared parts

class Ranks:
    """The processes that train one network together, a GPU each; alone, a group of one."""

    def __init__(self, first, size):
        self.size, self.rank = size, int(os.environ.get("RANK", 0)) - first
        self.group = dist.new_group(range(first, first + size)) if dist.is_initialized() else None

    def share(self, n):
        """First and last + 1 of this rank's part of n things."""
        return n * self.rank // self.size, n * (self.rank + 1) // self.size

    def average(self, flat):
        if self.size > 1:
            dist.all_reduce(flat, group=self.group)
            flat.div_(self.size)


class Plan:
    """How many steps to do: those asked for, or as many as fit before `until`, judged by the rate of steps 100..200.
    All ranks, and so both twins, agree on the number."""

    def __init__(self, steps, until, device):
        self.steps, self.until, self.device, self.start = steps, until, device, time.time()

    def at(self, step):
        if math.isinf(self.until) or step not in (100, 200):
            return
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        if step == 100:
            self.mark = time.time()
            return
        rate = 100 / (time.time() - self.mark)
        fits = torch.tensor(int(200 + rate * (self.until - time.time())), device=self.device)
        if dist.is_initialized():
            dist.all_reduce(fits, op=dist.ReduceOp.MIN)
        say(f"  {rate:.1f} steps/s after {time.time()-self.start:.0f} s, {fits.item()} steps fit, {self.steps} asked")
        self.steps = min(self.steps, max(fits.item(), 400))


def say(text, rank=0):
    if rank == 0:
        print(text, flush=True)


def bind_gradients(net):
    """Makes all gradients views of one buffer: averaging over ranks is one all-reduce, clipping one product."""
    flat, at = torch.zeros(sum(q.numel() for q in net.parameters()), device=next(net.parameters()).device), 0
    for q in net.parameters():
        q.grad = torch.as_strided(flat, q.size(), q.stride(), at)
        at += q.numel()
    return flat


def clip(flat, most=1.0):
    flat.mul_((most / (flat.norm() + 1e-6)).clamp(max=1))


def cosine(step, steps, peak, warmup=300):
    if step < warmup:
        return peak * (step + 1) / warmup
    x = (step - warmup) / max(1, steps - warmup)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, x))))


class Average:
    """Exponential moving average of a network's parameters, in a copy of the network."""

    def __init__(self, net, decay):
        self.net, self.decay, self.n = copy.deepcopy(net).requires_grad_(False), decay, 0
        self.mine, self.theirs = list(self.net.parameters()), [q.detach() for q in net.parameters()]

    @torch.no_grad()
    def update(self):
        self.n += 1
        torch._foreach_lerp_(self.mine, self.theirs, 1 - min(self.decay, self.n / (self.n + 10)))


@torch.no_grad()
def round_to_half(net):
    for q in net.parameters():
        q.copy_(q.half())
    return net.eval()


def save_network(net, folder):
    """config.json and float16 weights, as from_pretrained reads them."""
    net.save_config(folder)
    weights = {k: v.half().cpu().contiguous() for k, v in net.state_dict().items()}
    save_file(weights, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    print(f"  {folder}: {sum(v.numel() for v in weights.values())} parameters", flush=True)


def save_curve(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as f:
        w = csv.writer(f, lineterminator="\n")
        w.writerow(header)
        w.writerows(rows)


def autocast(device):
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda", cache_enabled=False)


# --------------------------------------------------------------------------------------------------------- VAE

def resample_all_frames(self, x, feat_cache=None, feat_idx=None):
    """WanResample.forward for a whole movie at once. diffusers walks a movie in chunks of 1, 4, 4 ... frames and keeps
    caches; the first frame skips the temporal layers. Over all frames that is one convolution over the rest, with
    the same numbers and far fewer kernels."""
    if self.mode == "upsample3d" and x.shape[2] > 1:
        b, c, t, h, w = x.shape
        y = self.time_conv(x[:, :, 1:]).reshape(b, 2, c, t - 1, h, w)  # two frames out of each latent frame
        y = torch.stack((y[:, 0], y[:, 1]), 3).reshape(b, c, 2 * (t - 1), h, w)
        x = torch.cat([x[:, :, :1], y], 2)
    b, c, t, h, w = x.shape
    x = self.resample(x.permute(0, 2, 1, 3, 4).reshape(b * t, c, h, w))
    x = x.view(b, t, *x.shape[1:]).permute(0, 2, 1, 3, 4)
    if self.mode == "downsample3d" and t > 1:
        x = torch.cat([x[:, :, :1], self.time_conv(x)], 2)  # windows 0-2, 2-4, 4-6 ...
    return x


def whole_movie(vae, device="cpu"):
    """The VAE on the device, all frames at once, weights channels-last."""
    for m in vae.modules():
        if isinstance(m, WanResample):
            m.forward = types.MethodType(resample_all_frames, m)
    for q in vae.to(device).parameters():
        if q.dim() in (4, 5) and q.shape[1] > 1:
            q.data = q.data.contiguous(memory_format=torch.channels_last if q.dim() == 4 else torch.channels_last_3d)
    return vae


def encode(vae, x):
    """[B, 3, F, H, W] -> mean and log variance, [B, C, T, h, w] each."""
    return vae.quant_conv(vae.encoder(x)).chunk(2, 1)


def decode(vae, z):
    return vae.decoder(vae.post_quant_conv(z))


def new_vae(args):
    torch.manual_seed(args.seed)
    config = dict(base_dim=args.base_dim, z_dim=args.z_dim, dim_mult=args.dim_mult, num_res_blocks=args.res_blocks,
                  attn_scales=[], temperal_downsample=[False, True, True])
    vae = AutoencoderKLWan(**config, latents_mean=[0.0] * args.z_dim, latents_std=[1.0] * args.z_dim)
    if args.init_vae:
        vae.load_state_dict(AutoencoderKLWan.from_pretrained(args.init_vae).state_dict())
    return whole_movie(vae, args.device)


def vae_loss(vae, x, still, noise, args):
    """x [B,3,F,H,W], still [B,3,1,H,W] the movie's median frame, noise [B,C,T,h,w] -> loss, its parts."""
    mean, logvar = encode(vae, x)
    mean, logvar = mean.float(), logvar.float().clamp(-30, 20)
    y = decode(vae, mean + (0.5 * logvar).exp() * noise).float()
    moving = ((x - still).abs().amax(1, keepdim=True) * 4).clamp(max=1)
    weight = 1 + args.moving * F.max_pool3d(moving, (1, 3, 3), 1, (0, 1, 1))
    e = y - x
    l1 = (weight * e.abs()).mean() / weight.mean()
    dh, dw = (e[..., 1:, :] - e[..., :-1, :]).abs(), (e[..., 1:] - e[..., :-1]).abs()
    gradient = ((weight[..., 1:, :] * dh).mean() + (weight[..., 1:] * dw).mean()) / (2 * weight.mean())
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return l1 + args.gradient * gradient + args.kl * kl, l1.detach(), gradient.detach(), kl.detach()


@torch.no_grad()
def psnr(vae, video, device):
    """PSNR in dB: mean over whole movies, and of all their moving pixels together."""
    plain, wrong, count = [], 0.0, 0.0
    for v in video.split(16):
        x = to_unit(v.to(device))
        y = decode(vae, encode(vae, x)[0].float()).float().clamp(-1, 1)
        e = (x - y).square() / 4
        still = to_unit(v[:, ::4].median(1, keepdim=True).values.to(device))
        m = ((x - still).abs().amax(1, keepdim=True) > 0.1).expand_as(e)
        plain.append(-10 * e.flatten(1).mean(1).log10())
        wrong, count = wrong + (e * m).sum().item(), count + m.sum().item()
    return torch.cat(plain).mean().item(), -10 * math.log10(max(wrong / max(count, 1), 1e-10))


def train_vae(args, ranks):
    movies = Movies(args.data, "lawful")
    total = min(len(movies) - args.held_out, args.vae_movies)
    data = movies.load(*ranks.share(total), args.device)  # uint8 [N,F,H,W,3]
    held = movies.load(len(movies) - args.held_out, len(movies), "cpu")[:64]
    still = torch.cat([d[:, ::4].median(1, keepdim=True).values for d in data.split(256)])  # [N,1,H,W,3]
    vae, batch, frames = new_vae(args), args.vae_batch // ranks.size, data.shape[1]
    average, flat = Average(vae, args.vae_ema), bind_gradients(vae)
    say(f"VAE: {flat.numel()} parameters, {total} movies, batch {ranks.size} x {batch}", ranks.rank)
    opt = torch.optim.AdamW(vae.parameters(), lr=args.vae_lr, betas=(0.9, 0.99), weight_decay=1e-4,
                            fused=args.device.startswith("cuda"))
    loss_of = vae_loss if args.no_compile else torch.compile(vae_loss, dynamic=False)
    g = torch.Generator(args.device).manual_seed(args.seed + 1 + 1000 * ranks.rank)
    clip_frames = torch.arange(args.clip, device=args.device)
    plan, rows, step = Plan(args.vae_steps, START + args.vae_seconds, args.device), [], 0
    while step < plan.steps:
        plan.at(step)
        i = torch.randint(len(data), [batch], generator=g, device=args.device)
        t = torch.randint(frames - args.clip + 1, [batch], generator=g, device=args.device)
        x = to_unit(data[i[:, None], t[:, None] + clip_frames])  # [B,3,clip,H,W]
        noise = torch.randn(batch, args.z_dim, 1 + (args.clip - 1) // 4, *[s // 8 for s in data.shape[2:4]],
                            generator=g, device=args.device)
        for group in opt.param_groups:
            group["lr"] = cosine(step, plan.steps, args.vae_lr)
        flat.zero_()
        with autocast(args.device):
            loss, *parts = loss_of(vae, x, to_unit(still[i]), noise, args)
        loss.backward()
        ranks.average(flat)
        clip(flat)
        opt.step()
        average.update()
        step += 1
        if step % 50 == 0 or step == plan.steps:
            rows.append([step, round(time.time() - plan.start, 1)] + [round(v.item(), 6) for v in (loss.detach(), *parts)])
            if not math.isfinite(rows[-1][2]):
                raise SystemExit("the VAE's loss is not finite")
        if (step % 1000 == 0 or step == plan.steps) and ranks.rank == 0:
            with autocast(args.device):
                quality = psnr(average.net, held[:16], args.device)
            say(f"  vae {step}/{plan.steps} {rows[-1][1]:.0f}s l1 {rows[-1][3]:.5f} kl {rows[-1][5]:.2f} "
                f"psnr {quality[0]:.2f} moving {quality[1]:.2f}")
    if ranks.rank > 0:
        return
    seconds = time.time() - plan.start
    vae = round_to_half(average.net)
    with torch.no_grad(), autocast(args.device):
        z = torch.cat([encode(vae, to_unit(d))[0].float() for d in data[:4096].split(64)])  # [N,C,T,h,w]
    over = (0, 2, 3, 4)
    vae.register_to_config(latents_mean=[round(v, 6) for v in z.mean(over).tolist()],
                           latents_std=[round(v, 6) for v in z.std(over).tolist()])
    save_network(vae, args.out / "vae")
    quality = psnr(vae, held, args.device)
    say(f"VAE: {plan.steps} steps, {seconds:.0f} s, held-out PSNR {quality[0]:.2f} dB, moving pixels {quality[1]:.2f} dB")
    save_curve(args.out / "training/vae.csv", ["step", "seconds", "loss", "l1", "gradient", "kl"], rows)
    note(args, "vae", steps=plan.steps, seconds=round(seconds, 1), movies=total, gpus=ranks.size, psnr=quality[0], psnr_moving=quality[1])


# ------------------------------------------------------------------------------------------------- transformer

@torch.no_grad()
def latents_of(args, world, ranks):
    """This rank's share of a world, and all held-out movies, through the saved VAE: normalised posterior means,
    bfloat16 [N,C,T,h,w]."""
    vae = whole_movie(AutoencoderKLWan.from_pretrained(args.out / "vae"), args.device).eval()
    mean, std = (torch.tensor(v, device=args.device).view(1, -1, 1, 1, 1)
                 for v in (vae.config.latents_mean, vae.config.latents_std))
    run = encode if args.no_compile else torch.compile(encode, dynamic=False)
    movies, start, out = Movies(args.data, world), time.time(), []
    train, size = len(movies) - args.held_out, 256 if args.device.startswith("cuda") else 16
    train = min(args.movies, train) if args.movies else train
    first, last = ranks.share(train)
    for lo, hi in ((first, last), (len(movies) - args.held_out, len(movies))):
        for piece in movies.pieces(lo, hi, size):
            n = len(piece)
            x = to_unit(F.pad(piece.to(args.device), (0,) * 8 + (0, size - n)))  # one shape, compiled once
            with autocast(args.device):
                out.append(((run(vae, x)[0].float() - mean) / std)[:n].bfloat16())
    say(f"{world}: {train} + {args.held_out} movies encoded in {time.time()-start:.0f} s", ranks.rank)
    out = torch.cat(out)
    return out[:last - first], out[last - first:], train


def new_transformer(args, channels):
    torch.manual_seed(args.seed + 2)  # the twins start from the same weights
    return WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=args.heads, attention_head_dim=args.head_dim, in_channels=channels,
        out_channels=channels, text_dim=args.text_dim, freq_dim=256, ffn_dim=args.ffn, num_layers=args.layers,
        cross_attn_norm=True, qk_norm="rms_norm_across_heads", rope_max_seq_len=256)


def flow_loss(net, x, noise, sigma, text):
    """x, noise [B,C,T,h,w], sigma [B]: state (1-s) x + s noise, label 1000 s, target dx/ds = noise - x."""
    s = sigma.view(-1, 1, 1, 1, 1)
    v = net((1 - s) * x + s * noise, sigma * 1000, text, return_dict=False)[0]
    return (v.float() - (noise - x)).square().mean((1, 2, 3, 4))


def draw_sigma(args, u):
    """u in (0,1), one stratum a movie of the batch."""
    s = torch.sigmoid(args.sigma_mean + args.sigma_std * torch.special.ndtri(u))
    return args.sigma_shift * s / (1 + (args.sigma_shift - 1) * s)


@torch.no_grad()
def held_out_loss(net, held, text, device):
    """Velocity error on held-out movies at five sigmas, the same noise every time."""
    g = torch.Generator(device).manual_seed(99)
    x = held.float()
    noise = torch.randn(x.shape, generator=g, device=device)
    with autocast(device):
        return [flow_loss(net, x, noise, x.new_full([len(x)], s), text.expand(len(x), -1, -1)).mean().item()
                for s in (0.1, 0.3, 0.5, 0.7, 0.9)]


def captured(work):
    """The work as a CUDA graph: at this size it is otherwise mostly launching kernels. Three warm-up runs."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        work()
    return graph.replay


def train_transformer(args, world, ranks, until):
    data, held, total = latents_of(args, world, ranks)
    cuda, B = args.device.startswith("cuda"), args.batch // ranks.size
    net = new_transformer(args, data.shape[1]).to(args.device)
    average, flat = Average(net, args.ema), bind_gradients(net)
    say(f"{world}: {flat.numel()} parameters, {total} latents of {list(data.shape[1:])}, batch {ranks.size} x {B}", ranks.rank)
    text = torch.zeros(1, 1, args.text_dim, device=args.device)  # the one null text token
    lr = torch.tensor(0.0, device=args.device) if cuda else 0.0
    opt = torch.optim.AdamW(net.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=args.weight_decay,
                            fused=cuda, capturable=cuda)
    loss_of = flow_loss if args.no_compile else torch.compile(flow_loss, dynamic=False)
    strata = torch.arange(B, device=args.device)
    sum_of_losses = torch.zeros((), device=args.device)
    torch.manual_seed(args.seed + 3 + 1000 * ranks.rank)  # the twins see the same draws

    def gradients():
        x = data[torch.randint(len(data), [B], device=args.device)].float()
        u = (strata + torch.rand(B, device=args.device).clamp(1e-4, 1 - 1e-4)) / B
        flat.zero_()
        with autocast(args.device):
            loss = loss_of(net, x, torch.randn_like(x), draw_sigma(args, u), text.expand(B, -1, -1)).mean()
        loss.backward()
        sum_of_losses.add_(loss.detach())

    def descend():
        clip(flat)
        opt.step()

    if cuda and not args.no_compile:
        gradients, descend = captured(gradients), captured(descend)  # lr is still 0
    sum_of_losses.zero_()
    plan, rows, step, since = Plan(args.steps, until, args.device), [], 0, 0
    while step < plan.steps:
        plan.at(step)
        now = cosine(step, plan.steps, args.lr)
        if cuda:
            lr.fill_(now)
        else:
            opt.param_groups[0]["lr"] = now
        gradients()
        ranks.average(flat)
        descend()
        average.update()
        step, since = step + 1, since + 1
        if step % 200 == 0 or step == plan.steps:
            rows.append([step, round(time.time() - plan.start, 1), round(sum_of_losses.item() / since, 6)] + [""] * 5)
            sum_of_losses.zero_()
            since = 0
            if not math.isfinite(rows[-1][2]):
                raise SystemExit(f"the {world} loss is not finite")
        if (step % 4000 == 0 or step == plan.steps) and ranks.rank == 0:
            rows[-1][3:] = [round(v, 5) for v in held_out_loss(average.net, held, text, args.device)]
            say(f"  {world} {step}/{plan.steps} {rows[-1][1]:.0f}s loss {rows[-1][2]} held-out {rows[-1][3:]}")
    if ranks.rank > 0:
        return plan.steps
    seconds = time.time() - plan.start
    net = round_to_half(average.net)
    name = "transformer" if world == "lawful" else "transformer_lawless"
    save_network(net, args.out / name)
    seen = [round(v, 5) for v in held_out_loss(net, data[:len(held)], text, args.device)]
    held = [round(v, 5) for v in held_out_loss(net, held, text, args.device)]
    say(f"{world}: {plan.steps} steps, {seconds:.0f} s, velocity error held-out {held}, on training movies {seen}")
    save_curve(args.out / f"training/{name}.csv",
               ["step", "seconds", "loss", "held_0.1", "held_0.3", "held_0.5", "held_0.7", "held_0.9"], rows)
    note(args, name, steps=plan.steps, seconds=round(seconds, 1), movies=total, gpus=ranks.size, held_out=held, training=seen)
    return plan.steps


# -------------------------------------------------------------------------------------------------------- folder

def note(args, name, **measured):
    """training/NAME.json: the arguments of the run and what it measured."""
    given = {k: str(v.name) if isinstance(v, Path) else v for k, v in vars(args).items()}
    given = {k: str(v) if v == math.inf else v for k, v in given.items()}
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    software = {"torch": torch.__version__, "diffusers": diffusers.__version__, "device": gpu}
    path = args.out / f"training/{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"measured": measured, "arguments": given, "software": software}, indent=1) + "\n")


def write_index(out):
    out.mkdir(parents=True, exist_ok=True)
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0,
                                        num_train_timesteps=1000)
    scheduler.save_pretrained(out / "scheduler")
    index = {"_class_name": "WanPipeline", "_diffusers_version": diffusers.__version__,
             "scheduler": ["diffusers", "UniPCMultistepScheduler"], "text_encoder": [None, None],
             "tokenizer": [None, None], "transformer": ["diffusers", "WanTransformer3DModel"],
             "vae": ["diffusers", "AutoencoderKLWan"]}
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def main():
    args = arguments()
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if world_size > 1:
        if args.device == "cuda":
            args.device = f"cuda:{os.environ['LOCAL_RANK']}"
            torch.cuda.set_device(args.device)
        dist.init_process_group("nccl" if args.device.startswith("cuda") else "gloo")
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    all_ranks, half = Ranks(0, world_size), world_size // 2
    if all_ranks.rank == 0:
        write_index(args.out)
    if args.stage in ("all", "vae"):
        train_vae(args, all_ranks)
    if world_size > 1:
        dist.barrier()
    if args.stage in ("all", "transformer") and world_size > 1:
        twins = [Ranks(0, half), Ranks(half, half)]  # every process must make both groups
        mine = all_ranks.rank // half
        train_transformer(args, ("lawful", "lawless")[mine], twins[mine], START + args.seconds)
    elif args.stage in ("all", "transformer"):
        worlds = ("lawful", "lawless") if args.world == "both" else (args.world,)
        for i, world in enumerate(worlds):  # the second twin is trained exactly as long as the first
            until = time.time() + (START + args.seconds - time.time()) / (len(worlds) - i) if i == 0 else math.inf
            args.steps = train_transformer(args, world, all_ranks, until)
    if world_size > 1:
        dist.barrier()
        dist.destroy_process_group()


START = time.time()
if __name__ == "__main__":
    main()
