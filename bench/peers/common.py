"""What the peers share: the columns of bench/sheet.h, this process's own ceilings, time as bench/timing.h takes it
(calls between two waits, the median of repeats), and the architectures that `bench --arch` names."""
import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch

TREE = Path(__file__).resolve().parents[2]
ARCHITECTURES = {  # name: folder, pixels, batch, frames, text positions; as in bench/subject.c
    "tiny": ("models/tiny-wan", "64x64", 16, 33, 1),
    "wan2.1-1.3b": ("bench/architectures/wan2.1-1.3b", "256x256", 16, 97, 512),
    "wan2.1-14b": ("bench/architectures/wan2.1-14b", "256x256", 1, 97, 512),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
COLUMNS = "who,what,case,shape,dtype,calls,median_s,least_s,tflops,gbytes_per_s,of_matmul,of_copy"


# ---------------------------------------------------------------------------------------------------- options

def parser(text, subject=True):
    p = argparse.ArgumentParser(description=text.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--seconds", type=float, default=2, help="time given to each measurement")
    if subject:
        p.add_argument("--arch", choices=ARCHITECTURES, help="default: wan2.1-1.3b on a GPU, tiny on the CPU")
        p.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
        p.add_argument("--batch", type=int)
        p.add_argument("--size", help="HxW in pixels")
        p.add_argument("--frames", type=int)
        p.add_argument("--text", type=int, help="text positions")
        p.add_argument("--words", type=int, default=1, help="of them not padding")
    return p


def fill_in(a):
    """The architecture's own batch, size, frames and text where none are given."""
    a.arch = a.arch or ("wan2.1-1.3b" if a.device.startswith("cuda") else "tiny")
    folder, size, batch, frames, text = ARCHITECTURES[a.arch]
    a.folder = TREE / folder
    a.size, a.batch, a.frames, a.text = a.size or size, a.batch or batch, a.frames or frames, a.text or text
    a.height, a.width = map(int, a.size.split("x"))
    vae = config(a, "vae")
    a.latent = (a.batch, vae["z_dim"], (a.frames - 1) // 4 + 1, a.height // 8, a.width // 8)
    return a


def config(a, part):
    return json.loads((a.folder / part / "config.json").read_text())


def build(cls, values, device, dtype):
    """A diffusers model with random weights, drawn on the device; what diffusers keeps in float32 stays so."""
    with torch.device(device):
        model = cls.from_config({k: v for k, v in values.items() if not k.startswith("_")})
    keep = () if dtype == torch.float64 else tuple(model._keep_in_fp32_modules or ())
    for name, p in [*model.named_parameters(), *model.named_buffers()]:
        if p.is_floating_point():
            p.data = p.data.to(torch.float32 if any(k in name for k in keep) else dtype)
    return model.eval().requires_grad_(False)


def inputs(a, dtype, text_dim):
    g = torch.Generator(a.device).manual_seed(5)
    draw = lambda *shape: torch.randn(*shape, generator=g, device=a.device)
    text = torch.zeros(a.batch, a.text, text_dim, device=a.device)
    text[:, :a.words] = draw(1, a.words, text_dim)
    return {"hidden_states": draw(*a.latent).to(dtype), "encoder_hidden_states": text.to(dtype),
            "timestep": torch.full((a.batch,), 500.0, device=a.device), "return_dict": False}


# ------------------------------------------------------------------------------------------------------- time

def wait(device):
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def measure(call, device, seconds, repeats=11, warm=2):
    """(median, least, calls) of seconds a call."""
    for _ in range(warm):
        call()
    wait(device)
    start = time.perf_counter()
    call()
    wait(device)
    one = time.perf_counter() - start
    n = max(1, min(1000, int(max(2e-3, seconds / repeats) / max(one, 1e-9)) + (one < 2e-3)))
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or (len(times) < repeats and time.perf_counter() < end):
        start = time.perf_counter()
        for _ in range(n):
            call()
        wait(device)
        times.append((time.perf_counter() - start) / n)
    return statistics.median(times), min(times), n * len(times)


# ------------------------------------------------------------------------------------------------------- rows

class Sheet:
    def __init__(self, device, dtype, ceilings=True):
        self.matmul = self.copy = None
        name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
        print(f"# torch {torch.__version__} on {name}")
        print(COLUMNS, flush=True)
        if ceilings:
            self.find_ceilings(device, dtype)

    def row(self, who, what, case, shape, dtype, timed, flops=0, bytes_=0):
        median, least, calls = timed
        rate = lambda x, of=1.0, scale=1.0: f"{x / median / of * scale:.6g}" if x and of else ""
        print(f'{who},"{what}","{case}","{shape}",{dtype},{calls},{median:.9g},{least:.9g},{rate(flops, scale=1e-12)},'
              f"{rate(bytes_, scale=1e-9)},{rate(flops, self.matmul)},{rate(bytes_, self.copy)}", flush=True)

    def find_ceilings(self, device, dtype):
        gpu = device.startswith("cuda")
        side, numbers = (8192, 1 << 29) if gpu else (1024, 1 << 24)
        x, w = (torch.rand(side, side, device=device).mul_(2).sub_(1).to(DTYPES[dtype]) for _ in range(2))
        timed = measure(lambda: torch.matmul(x, w.t()), device, 0.5)
        self.matmul = 2 * side ** 3 / timed[0]
        self.row("torch", "matmul", "ceiling", f"{side}^3", dtype, timed, 2 * side ** 3)
        del x, w
        a = torch.rand(numbers, device=device)
        b = torch.empty_like(a)
        timed = measure(lambda: b.copy_(a), device, 0.3)
        self.copy = 8 * numbers / timed[0]
        self.row("torch", "copy", "ceiling", f"{4 * numbers >> 20} MiB", "float32", timed, 0, 8 * numbers)


def note(text):
    print(f"# {text}", flush=True)


def fail(text):
    sys.exit(f"{Path(sys.argv[0]).name}: {text}")


def velocity_flops(a, c):
    """Multiply-adds, counted as two, of the mathematics of one evaluation: as bench_velocity_flops."""
    width, blocks = c["num_attention_heads"] * c["attention_head_dim"], c["num_layers"]
    patch = c["patch_size"][0] * c["patch_size"][1] * c["patch_size"][2] * c["in_channels"]
    one = a.latent[2] * a.latent[3] * a.latent[4] // (patch // c["in_channels"])
    tokens = a.batch * one
    matrices = blocks * (6 * width * width + 2 * width * c["ffn_dim"]) + 2 * patch * width
    return 2 * tokens * matrices + 4 * tokens * (one + a.text) * width * blocks
