#!/usr/bin/env python3
"""Times diffusers' WanTransformer3DModel with random weights on the batch that `bench step` times.

Variants: eager; compile, with cuDNN attention (the honest peer); means, eager with hooks that average every block's
tokens on the GPU; official, eager with the hooks of the official code, which bring every block's whole states to the
host as float32."""
import torch
from diffusers import WanTransformer3DModel
from torch.nn.attention import SDPBackend, sdpa_kernel

import common


def hooked(model, take):
    """A call's hooks on every block; take(states [B,S,D]) of each."""
    return [b.register_forward_hook(lambda _m, _i, out: take(out[0] if isinstance(out, tuple) else out)) for b in model.blocks]


def run(a, sheet, variant):
    values = common.config(a, "transformer")
    dtype = common.DTYPES[a.dtype]
    model = common.build(WanTransformer3DModel, values, a.device, dtype)
    args = common.inputs(a, dtype, values["text_dim"])
    flops, shape = common.velocity_flops(a, values), "x".join(map(str, a.latent))
    kept = []
    call = lambda: model(**args)
    who, case = "diffusers", "no capture"
    if variant == "compile":
        who = "diffusers compiled"
        compiled = torch.compile(model, mode=a.mode)
        backends = [SDPBackend.CUDNN_ATTENTION] if a.device.startswith("cuda") else [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION]

        def call():
            with sdpa_kernel(backends):
                compiled(**args)
    elif variant == "means":
        case = "block means"
        hooked(model, lambda x: kept.append(x.float().mean(1)))
    elif variant == "official":
        case = "whole states to host"
        hooked(model, lambda x: kept.append(x.detach().float().cpu()))

    def once():
        kept.clear()
        call()

    with torch.no_grad():
        timed = common.measure(once, a.device, a.seconds, warm=3 if variant == "compile" else 1)
    sheet.row(who, "step", case, shape, a.dtype, timed, flops)


def main():
    p = common.parser(__doc__)
    p.add_argument("--variants", default="eager,compile,means", help="of eager,compile,means,official")
    p.add_argument("--mode", default="default", help="of torch.compile")
    a = common.fill_in(p.parse_args())
    sheet = common.Sheet(a.device, a.dtype)
    for variant in a.variants.split(","):
        if variant not in ("eager", "compile", "means", "official"):
            common.fail(f"--variants: '{variant}' is not known: expected eager, compile, means, official")
        try:
            run(a, sheet, variant)
        except Exception as e:  # a peer that cannot run is told, the others go on
            common.note(f"{variant} failed: {type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}")
        torch.compiler.reset()
        if a.device.startswith("cuda"):
            torch.cuda.empty_cache()


main()
