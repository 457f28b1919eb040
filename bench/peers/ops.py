#!/usr/bin/env python3
"""Times PyTorch's operators on the full-size cases of tests/op_table.inc (`bench ops --huge`), same names and shapes:
products with cuBLAS, attention with cuDNN and FlashAttention, norms, convolutions with cuDNN."""
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import common

LINEAR = [  # case, batch, tokens, in, out, gelu
    ("1.3B q, k or v", 16, 6400, 1536, 1536, False), ("1.3B q, k and v", 16, 6400, 1536, 4608, False),
    ("1.3B mlp up, gelu", 16, 6400, 1536, 8960, True), ("1.3B mlp up, no gelu", 16, 6400, 1536, 8960, False),
    ("1.3B mlp down", 16, 6400, 8960, 1536, False), ("1.3B patch embedding", 16, 6400, 64, 1536, False),
    ("1.3B head", 16, 6400, 1536, 64, False), ("1.3B mlp up, 32,760 tokens", 1, 32760, 1536, 8960, True),
    ("1.3B mlp down, 32,760 tokens", 1, 32760, 8960, 1536, False)]
ATTENTION = [  # case, batch, queries, keys, heads, head width
    ("1.3B", 16, 6400, 6400, 12, 128), ("1.3B, 32,760 tokens", 1, 32760, 32760, 12, 128),
    ("1.3B, text of 512", 16, 6400, 512, 12, 128), ("CogVideoX 2B", 4, 6626, 6626, 30, 64), ("LTX", 16, 832, 832, 32, 64)]
CONV = [  # case, in, out, frames, side, kernel
    ("Wan VAE, 3 to 96", 3, 96, 97, 256, 3), ("Wan VAE, 96", 96, 96, 97, 256, 3), ("Wan VAE, 96 to 192", 96, 192, 97, 128, 3),
    ("Wan VAE, 192", 192, 192, 97, 128, 3), ("Wan VAE, 192 to 384", 192, 384, 49, 64, 3), ("Wan VAE, 384", 384, 384, 49, 64, 3),
    ("Wan VAE, 384, deepest", 384, 384, 25, 32, 3), ("Wan VAE, shortcut", 96, 192, 97, 128, 1)]


def shrink(n, least=8):
    """On a CPU only that it runs matters."""
    return max(least, n // 64)


class Ops:
    def __init__(self, a, sheet):
        self.a, self.sheet, self.dtype = a, sheet, common.DTYPES[a.dtype]
        self.small = not a.device.startswith("cuda")

    def draw(self, *shape, dtype=None, scale=1.0):
        return torch.empty(*shape, device=self.a.device).uniform_(-scale, scale).to(dtype or self.dtype)

    def row(self, who, what, case, out, dtype, call, flops=0, bytes_=0):
        timed = common.measure(call, self.a.device, self.a.seconds)
        self.sheet.row(who, what, case, "[" + ", ".join(map(str, out)) + "]", dtype, timed, flops, bytes_)

    def linear(self):
        for case, B, S, K, N, gelu in LINEAR:
            if self.small:
                S, K, N = shrink(S), shrink(K), shrink(N)
            x, w, b = self.draw(B, S, K), self.draw(N, K), self.draw(N)
            call = (lambda: F.gelu(F.linear(x, w, b), approximate="tanh")) if gelu else (lambda: F.linear(x, w, b))
            moved = (B * S * (K + N) + N * K + N) * x.element_size()
            self.row("torch", "linear", case, (B, S, N), self.a.dtype, call, 2 * B * S * K * N, moved)

    def attention(self):
        backends = [("torch cuDNN", SDPBackend.CUDNN_ATTENTION), ("torch flash", SDPBackend.FLASH_ATTENTION)]
        for case, B, S, M, N, P in ATTENTION:
            if self.small:
                B, S, M = 1, shrink(S), shrink(M)
            q, k, v = self.draw(B, N, S, P, scale=3), self.draw(B, N, M, P, scale=3), self.draw(B, N, M, P)
            for who, backend in [("torch", SDPBackend.MATH)] if self.small else backends:
                def call():
                    with sdpa_kernel([backend]):
                        F.scaled_dot_product_attention(q, k, v)
                try:
                    self.row(who, "attention", case, (B, S, N * P), self.a.dtype, call, 4 * B * N * S * M * P,
                             2 * B * N * P * (S + M) * q.element_size())
                except RuntimeError as e:  # no such kernel for this dtype or device
                    common.note(f"attention {case} with {who} failed: {str(e).splitlines()[0]}")

    def norms(self):
        B, S, D = (1, 100, 24) if self.small else (16, 6400, 1536)
        x, y, w, b = self.draw(B, S, D), self.draw(B, S, D), self.draw(D, dtype=torch.float32), self.draw(D, dtype=torch.float32)
        gate, moved = self.draw(1, 1, D), 2 * x.nbytes
        self.row("torch", "norm_modulate", "1.3B", (B, S, D), self.a.dtype,
                 lambda: (F.layer_norm(x.float(), (D,), eps=1e-6) * (1 + w) + b).to(x.dtype), 8 * B * S * D, moved)
        self.row("torch", "gate_add", "1.3B", (B, S, D), self.a.dtype, lambda: x.addcmul_(y, gate), 2 * B * S * D, 3 * x.nbytes)
        self.row("torch", "gate_add_layer_norm", "1.3B", (B, S, D), self.a.dtype,
                 lambda: F.layer_norm(x.addcmul_(y, gate), (D,), w.to(x.dtype), b.to(x.dtype), 1e-6), 10 * B * S * D, 4 * x.nbytes)
        self.row("torch", "pool_mean", "1.3B", (B, D), self.a.dtype, lambda: x.float().mean(1), B * S * D, x.nbytes)

    def conv(self):
        for name, dtype, tf32 in (("bfloat16", torch.bfloat16, False), ("float32", torch.float32, False), ("tf32", torch.float32, True)):
            torch.backends.cudnn.allow_tf32 = tf32
            for case, I, O, T, side, k in CONV:
                if self.small:
                    I, O, T, side = min(I, 4), 4, 5, 8
                x = self.draw(1, I, T + k - 1, side + k - 1, side + k - 1, dtype=dtype).to(memory_format=torch.channels_last_3d)
                w = self.draw(O, I, k, k, k, dtype=dtype).to(memory_format=torch.channels_last_3d)
                b = self.draw(O, dtype=dtype)
                out = (1, O, T, side, side)
                self.row("torch NDHWC, padded before", "conv3d_causal", case, out, name, lambda: F.conv3d(x, w, b),
                         2 * O * T * side * side * I * k ** 3, (x.numel() + w.numel() + O * T * side * side) * x.element_size())


def main():
    p = common.parser(__doc__, subject=False)
    p.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    p.add_argument("--only", default="linear,attention,norms,conv")
    p.set_defaults(seconds=0.2)
    a = p.parse_args()
    ops = Ops(a, common.Sheet(a.device, a.dtype))
    with torch.no_grad():
        for part in a.only.split(","):
            if part not in ("linear", "attention", "norms", "conv"):
                common.fail(f"--only: '{part}' is not known: expected linear, attention, norms, conv")
            getattr(ops, part)()


main()
