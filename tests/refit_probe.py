#!/usr/bin/env python3
"""Makes probes of a run again with scikit-learn, from the feature shards alone, and compares held-out margins.

For a fold of a repeat heldout.csv says which cell (step, block, head) and penalty judged which videos; all other
videos of that repeat trained. Columns are standardised on those, the penalty is made scikit-learn's C
(probe/solve.h), and LogisticRegression is fitted. Only NumPy and scikit-learn are needed; a shard is read by hand.

  refit_probe.py RUN [--fits N]        compares N fits of every row (2)
  refit_probe.py --ebb EBB             makes a small run first, with the model that ships

Exit codes: 0 the margins agree; 1 they do not; 77 scikit-learn is not here.
"""
import argparse
import collections
import csv
import json
import os
import struct
import subprocess
import sys
import tempfile

try:
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

TOLERANCE = 1e-4  # ours stops at a relative gradient of 1e-6


def read_shard(path):
    """A safetensors file: 8 bytes of header length, a JSON header, the numbers."""
    types = {"F32": "<f4", "I64": "<i8"}
    with open(path, "rb") as f:
        (length,) = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(length))
        body = f.read()
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            tensors[name] = np.frombuffer(body[begin:end], types[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def feature_of(run, index, model, feature):
    """Video id -> its numbers [steps, ...]."""
    videos = {}
    for shard in index["shards"]:
        if index["sets"][shard["set"]]["model"] != model:
            continue
        tensors = read_shard(os.path.join(run, shard["file"]))
        for number, row in zip(tensors["video"], tensors[feature]):
            videos[index["videos"][int(number)]["id"]] = row
    return videos


def cell_of(description, numbers, step, block, head):
    """The numbers of one captured step, block and head of a video, as one row."""
    at = numbers[description["steps"].index(step)]
    if block is not None:
        at = at[description["blocks"].index(block)]
    if head is not None:
        at = at[head]
    return np.asarray(at, np.float64).ravel()


def refit(x, y, train, test, penalty):
    scaler = StandardScaler().fit(x[train])
    varies = scaler.var_ > (1e-6 * np.abs(scaler.mean_)) ** 2
    z = scaler.transform(x)[:, varies]
    strength = 0.25 * penalty * varies.sum()  # lambda of |w|^2 / 2 against the sum of the losses
    probe = LogisticRegression(C=1 / strength, solver="newton-cholesky", tol=1e-12, max_iter=1000)
    return probe.fit(z[train], y[train]).decision_function(z[test])


def compare(run, fits):
    with open(os.path.join(run, "index.json")) as f:
        index = json.load(f)
    with open(os.path.join(run, "probe", "results.json")) as f:
        if json.load(f)["preset"] != "strict":
            sys.exit("refit_probe: only probes of the strict preset are fitted to convergence")
    sets = {s["model"]: s for s in index["sets"]}
    possible = {v["id"]: v["possible"] for v in index["videos"]}
    rows = collections.defaultdict(list)
    with open(os.path.join(run, "probe", "heldout.csv")) as f:
        for line in csv.DictReader(f):
            rows[line["category"], line["model"], line["feature"]].append(line)
    worst = compared = 0
    for (category, model, feature), lines in rows.items():
        videos = feature_of(run, index, model, feature.removesuffix(".head"))
        for fold in sorted({int(line["fold"]) for line in lines})[:fits]:
            repeat = [line for line in lines if line["repeat"] == "0"]
            held = next(line for line in repeat if int(line["fold"]) == fold)
            step, block, head = (int(held[key]) if held[key] else None for key in ("step", "block", "head"))
            x = np.stack([cell_of(sets[model], videos[line["video"]], step, block, head) for line in repeat])
            y = np.array([1 if possible[line["video"]] else -1 for line in repeat])
            test = np.array([int(line["fold"]) == fold for line in repeat])
            ours = np.array([float(line["margin"]) for line in repeat])[test]
            theirs = refit(x, y, ~test, test, float(held["penalty"]))
            error = np.max(np.abs(ours - theirs) / (1 + np.abs(theirs)))
            print(f"{category} {model} {feature} fold {fold} step {step} block {block} head {head} "
                  f"penalty {held['penalty']}: {test.sum()} margins, largest difference {error:.1e}")
            worst = max(worst, error)
            compared += 1
    print(f"{compared} probes refitted, largest difference {worst:.1e}, tolerance {TOLERANCE:g}")
    return compared > 0 and worst < TOLERANCE


def small_run(ebb, folder):
    data, run = os.path.join(folder, "data"), os.path.join(folder, "run")
    settings = ["data.path=" + data, "model.compare=[]", "inversion.steps=4", "capture.steps=[0, 2]",
                "capture.points=[block_out, attn_entropy]", "probe.heads=both", "probe.folds=3", "probe.inner_folds=2",
                "probe.repeats=2", "probe.permutations=0", "probe.bootstrap=0", "run.device=cpu", "run.batch=8"]
    subprocess.run([ebb, "synth", data, "--quadruplets", "6", "--categories", "O1"], check=True)
    subprocess.run([ebb, "run", "configs/tiny-demo.yaml", "--out", run] + [a for s in settings for a in ("--set", s)],
                   check=True)
    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?")
    parser.add_argument("--ebb")
    parser.add_argument("--fits", type=int, default=2)
    given = parser.parse_args()
    if bool(given.run) == bool(given.ebb):
        parser.error("a run folder, or --ebb to make one")
    if given.run:
        return 0 if compare(given.run, given.fits) else 1
    with tempfile.TemporaryDirectory(prefix="ebb-refit-") as folder:
        return 0 if compare(small_run(given.ebb, folder), given.fits) else 1


if __name__ == "__main__":
    sys.exit(main())
