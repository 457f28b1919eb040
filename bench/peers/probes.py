#!/usr/bin/env python3
"""Times linear probes as they are usually trained, on the sizes of `bench probe`.

official: one nn.Linear(D, 2) per block on shuffled batches of 32, cross-entropy, Adam 1e-3, 50 epochs, no scaling, the
blocks' losses averaged: one step and one seed of the study, the features already on the device. sklearn: one
LogisticRegression (lbfgs, C=1) on scaled features."""
import time

import numpy as np
import torch
from torch import nn

import common


def official(a, sheet):
    x = torch.rand(a.train, a.blocks, a.width, device=a.device) * 2 - 1
    y = torch.randint(0, 2, (a.train,), device=a.device)

    def train(epochs):
        torch.manual_seed(0)
        probes = nn.ModuleList(nn.Linear(a.width, 2) for _ in range(a.blocks)).to(a.device)
        adam = torch.optim.Adam(probes.parameters(), lr=1e-3)
        for _ in range(epochs):
            for rows in torch.randperm(a.train, device=a.device).split(32):
                loss = torch.stack([nn.functional.cross_entropy(p(x[rows, i]), y[rows]) for i, p in enumerate(probes)]).mean()
                adam.zero_grad()
                loss.backward()
                adam.step()

    train(1)  # CUDA's context, cuBLAS and the kernels are loaded by the first epoch; not timed
    common.wait(a.device)
    start = time.perf_counter()
    train(a.epochs)
    common.wait(a.device)
    seconds = time.perf_counter() - start
    sheet.row("official loop", "probes", f"{a.blocks} blocks, one step, one seed", f"{a.train}x{a.width}", "float32",
              (seconds, seconds, 1))
    all_ = a.steps * a.seeds * a.classes
    common.note(f"the whole study is {all_} of these: about {seconds * all_:.4g} s")


def sklearn(a, sheet):
    from sklearn.linear_model import LogisticRegression
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-1, 1, (a.train, a.width)), rng.integers(0, 2, a.train)
    x = (x - x.mean(0)) / x.std(0)
    fit = lambda: LogisticRegression(C=1.0, tol=1e-6, max_iter=10000).fit(x, y)
    timed = common.measure(fit, "cpu", a.seconds, repeats=3, warm=1)
    sheet.row("scikit-learn", "one probe", "lbfgs, C=1", f"{a.train}x{a.width}", "float64", timed)
    count = a.blocks * a.steps * a.seeds * a.classes
    common.note(f"the whole study is {count} of these: about {timed[0] * count:.4g} s one after the other")


def main():
    p = common.parser(__doc__, subject=False)
    for name, default in (("blocks", 30), ("steps", 11), ("seeds", 5), ("classes", 4), ("train", 1080), ("width", 1536), ("epochs", 50)):
        p.add_argument(f"--{name}", type=int, default=default)
    p.add_argument("--variants", default="official,sklearn", help="of official,sklearn")
    a = p.parse_args()
    sheet = common.Sheet(a.device, "float32", ceilings=False)
    for variant in a.variants.split(","):
        {"official": official, "sklearn": sklearn}[variant](a, sheet)


main()
