"""Pictures for models/README.md, computed by ebb: real movies, their reconstructions by the VAE, samples of both transformers.

    python models/draw.py --ebb build/cpu-release/bin/ebb --movies DIR --out models/pictures

DIR is an `ebb synth` folder. Every tensor comes from `ebb eval`; this script only lays frames side by side. Needs numpy, safetensors and
Pillow.
"""
import argparse
import glob
import pathlib
import subprocess
import tempfile

import numpy as np
from PIL import Image
from safetensors.numpy import load_file, save_file

SHOWN = range(0, 33, 4)  # frames of a row


def evaluate(args, op, tensors, *options):
    """Runs `ebb eval OP` on a dict of arrays, returns the dict that it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        save_file({k: np.ascontiguousarray(v, dtype=np.float32) for k, v in tensors.items()}, f"{folder}/in.safetensors")
        subprocess.run([args.ebb, "eval", op, "--model", args.model, "--in", f"{folder}/in.safetensors", "--out",
                        f"{folder}/out.safetensors", *options], check=True)
        return load_file(f"{folder}/out.safetensors")


def read_movie(folder):
    """-> [3,F,H,W] in [-1,1]"""
    frames = [np.asarray(Image.open(p)) for p in sorted(glob.glob(f"{folder}/scene/scene_*.png"))]
    return np.stack(frames).transpose(3, 0, 1, 2).astype(np.float32) / 127.5 - 1


def sheet(rows, path, scale=2):
    """rows of [3,F,H,W] -> a picture, a row a movie"""
    picture = np.concatenate([np.concatenate([r[:, f] for f in SHOWN], axis=2) for r in rows], axis=1)
    pixels = ((picture.transpose(1, 2, 0) + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    image = Image.fromarray(pixels)
    image.resize((image.width * scale, image.height * scale), Image.NEAREST).save(path, optimize=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ebb", default="build/cpu-release/bin/ebb")
    parser.add_argument("--model", default="models/tiny-wan")
    parser.add_argument("--movies", required=True, help="a folder of `ebb synth`")
    parser.add_argument("--out", default="models/pictures")
    parser.add_argument("--samples", type=int, default=6)
    parser.add_argument("--steps", type=int, default=50)
    args = parser.parse_args()
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)

    sheet([read_movie(f"{args.movies}/{c}/01/{i}") for c in ("O1", "O2", "O3") for i in (1, 2, 3, 4)], out / "movies.png")

    real = [read_movie(f"{args.movies}/{c}/02/1") for c in ("O1", "O2", "O3")]
    latents = evaluate(args, "encode", {"video": np.stack(real)})["latents"]
    drawn = evaluate(args, "decode", {"latents": latents})["video"]
    error = ((np.stack(real) - drawn) ** 2).mean((1, 2, 3, 4)) / 4
    print("reconstruction PSNR, dB:", *np.round(-10 * np.log10(error), 1))
    sheet([m for pair in zip(real, drawn) for m in pair], out / "reconstructions.png")

    noise = np.random.default_rng(5).standard_normal((args.samples, *latents.shape[1:]))
    for name in ("transformer", "transformer_lawless"):
        text = np.zeros((1, 1, 32))
        path = evaluate(args, "sample", {"noise": noise, "text": text}, "--transformer", name, "--steps", str(args.steps),
                        "--labels", "matched")["trajectory"]
        sheet(list(evaluate(args, "decode", {"latents": path[-1]})["video"]), out / f"samples_{name}.png")


if __name__ == "__main__":
    main()
