#!/usr/bin/env python3
"""Hessian-vector products of GPT-2 in PyTorch, to stand beside `hesspec bench`: the same sizes, the same machine.

    pytorch_hvp.py --model nano --batch 4 --context 256 --threads 2 --json
    pytorch_hvp.py --model 124m --batch 8 --context 1024 --device cuda [--math tf32]

Needs PyTorch 1.13 or later (Debian: python3-torch). Seconds are medians of `--repeats` runs after one warm-up, for one
vector. What is timed:

    forward                 loss, no graph
    gradient                loss and its gradient
    full, double_backward   H v: gradient with its graph, then the gradient of <gradient, v>
    full, graph_kept        the second half alone, the first graph kept from vector to vector
    block, only_block       as double_backward, with only that parameter requiring a gradient
    block, paper            as the paper's code: gradient of the whole network, second gradient for the block
"""

import argparse
import json
import os
import platform
import resource
import statistics
import time

MODELS = {  # as hesspec's presets: layers, heads, embedding, mlp, context, vocabulary
    "nano": (6, 6, 384, 1536, 256, 65),
    "124m": (12, 12, 768, 3072, 1024, 50304),
}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="nano")
    parser.add_argument("--batch", type=int, default=4, help="windows")
    parser.add_argument("--context", type=int, default=256, help="tokens of a window")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--math", choices=("f32", "tf32"), default="f32", help="of matrix products on a GPU")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--blocks", default="", help="parameters, with commas; default: three of different depth")
    parser.add_argument("--cases", default="", help="only cases whose name contains this")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    if options.context > MODELS[options.model][4]:
        parser.error(f"--context {options.context}: {options.model} has positions for {MODELS[options.model][4]}")
    return options


def parameters(torch, sizes, device):
    """nanoGPT's initialisation; names and layouts ([in, out]) as hesspec's; tied head, no biases."""
    layers, _, width, mlp, context, vocabulary = sizes
    shapes = {"transformer.wte.weight": (vocabulary, width), "transformer.wpe.weight": (context, width)}
    for i in range(layers):
        h = f"transformer.h.{i}"
        shapes |= {
            f"{h}.ln_1.weight": (width,),
            f"{h}.attn.c_attn.weight": (width, 3 * width),
            f"{h}.attn.c_proj.weight": (width, width),
            f"{h}.ln_2.weight": (width,),
            f"{h}.mlp.c_fc.weight": (width, mlp),
            f"{h}.mlp.c_proj.weight": (mlp, width),
        }
    shapes["transformer.ln_f.weight"] = (width,)
    found = {}
    for name, shape in shapes.items():
        deviation = 0.02 / (2 * layers) ** 0.5 if name.endswith("c_proj.weight") else 0.02
        found[name] = torch.ones(shape, device=device) if len(shape) == 1 else deviation * torch.randn(shape, device=device)
    return found


def loss(torch, sizes, p, tokens, targets):
    """Mean cross-entropy; attention composed by hand: PyTorch's fused one has no second derivative."""
    F = torch.nn.functional
    layers, heads, width, _, _, _ = sizes
    batch, length = tokens.shape
    future = torch.ones(length, length, dtype=torch.bool, device=tokens.device).triu(1)
    norm = lambda name, x: F.layer_norm(x, (width,), p[f"{name}.weight"], None, 1e-5)

    def attention(name, x):
        split = lambda y: y.view(batch, length, heads, width // heads).transpose(1, 2)
        q, k, v = map(split, (x @ p[f"{name}.c_attn.weight"]).split(width, dim=2))
        scores = (q @ k.transpose(2, 3)) * (width // heads) ** -0.5  # (batch, heads, time, time)
        y = scores.masked_fill(future, float("-inf")).softmax(-1) @ v
        return y.transpose(1, 2).reshape(batch, length, width) @ p[f"{name}.c_proj.weight"]

    x = p["transformer.wte.weight"][tokens] + p["transformer.wpe.weight"][:length]
    for i in range(layers):
        h = f"transformer.h.{i}"
        x = x + attention(f"{h}.attn", norm(f"{h}.ln_1", x))
        x = x + F.gelu(norm(f"{h}.ln_2", x) @ p[f"{h}.mlp.c_fc.weight"]) @ p[f"{h}.mlp.c_proj.weight"]
    logits = norm("transformer.ln_f", x) @ p["transformer.wte.weight"].T
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Products:
    """The cases: each a function that does the work once."""

    def __init__(self, torch, options):
        self.torch, self.sizes = torch, MODELS[options.model]
        layers = self.sizes[0]
        three = [f"transformer.h.{layers - 1}.mlp.c_proj.weight", f"transformer.h.{layers // 2}.mlp.c_fc.weight",
                 "transformer.h.0.attn.c_attn.weight"]
        self.blocks = options.blocks.split(",") if options.blocks else three
        self.p = parameters(torch, self.sizes, options.device)
        self.vector = {name: torch.randn_like(value) for name, value in self.p.items()}
        ids = torch.randint(self.sizes[5], (options.batch, options.context + 1), device=options.device)
        self.tokens, self.targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def leaves(self, active):
        """Makes exactly these parameters require a gradient; returns them."""
        for name in self.p:
            self.p[name] = self.p[name].detach().requires_grad_(name in active)
        return [self.p[name] for name in active]

    def loss(self):
        return loss(self.torch, self.sizes, self.p, self.tokens, self.targets)

    def forward(self):
        with self.torch.no_grad():
            self.loss()

    def gradient(self):
        leaves = self.leaves(list(self.p))
        self.torch.autograd.grad(self.loss(), leaves)

    def slope(self, active, of):
        """<gradient, v> over `of`, with its graph; `active` require a gradient."""
        leaves = self.leaves(active)
        gradients = dict(zip(active, self.torch.autograd.grad(self.loss(), leaves, create_graph=True)))
        return sum((gradients[name] * self.vector[name]).sum() for name in of)

    def product(self, active, of):
        """H v of the parameters `of`."""
        slope = self.slope(active, of)
        return self.torch.autograd.grad(slope, [self.p[name] for name in of])

    def cases(self):
        """(what, variant, function that makes the work outside the clock)."""
        everything = list(self.p)
        yield "forward", "", lambda: self.forward
        yield "gradient", "", lambda: self.gradient
        yield "full", "double_backward", lambda: lambda: self.product(everything, everything)
        yield "full", "graph_kept", self.graph_kept
        for block in self.blocks:
            yield block, "only_block", lambda block=block: lambda: self.product([block], [block])
            yield block, "paper", lambda block=block: lambda: self.product(everything, [block])

    def graph_kept(self):
        """The work of `full, graph_kept`: the graph is made here, outside the clock."""
        everything = list(self.p)
        leaves = self.leaves(everything)
        gradients = self.torch.autograd.grad(self.loss(), leaves, create_graph=True)
        vectors = [self.vector[name] for name in everything]
        return lambda: self.torch.autograd.grad(gradients, leaves, vectors, retain_graph=True)


def median_seconds(torch, work, repeats, device):
    def done():
        if device == "cuda":
            torch.cuda.synchronize()

    work()
    done()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        done()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def sgemm_gflops(torch, device):
    size = 8192 if device == "cuda" else 2048
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    return 2 * size**3 / median_seconds(torch, lambda: a @ b, 5, device) / 1e9


def reset_peak(torch, device):
    """Linux: the next peak starts here."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass  # then every peak is that of the whole process so far


def peak_mb(torch, device):
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def processor():
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def main():
    options = parse()
    for library in ("OMP", "OPENBLAS", "MKL", "BLIS"):
        os.environ[f"{library}_NUM_THREADS"] = str(options.threads)  # read once, when the library is loaded
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = options.math == "tf32"
    products = Products(torch, options)
    result = dict(
        machine=torch.cuda.get_device_name() if options.device == "cuda" else processor(),
        torch=torch.__version__,
        threads=options.threads,
        model=options.model,
        tokens=options.batch * options.context,
        sgemm_gflops=round(sgemm_gflops(torch, options.device), 1),
        cases=[],
    )
    for what, variant, make in products.cases():
        if options.cases not in f"{what} {variant}":
            continue
        reset_peak(torch, options.device)
        seconds = median_seconds(torch, make(), options.repeats, options.device)
        case = dict(what=what, variant=variant, slots=1, seconds_per_slot=round(seconds, 4), peak_rss_mb=round(peak_mb(torch, options.device)))
        result["cases"].append(case)
        if not options.json:
            print(f"{what:42} {variant:16} {seconds:9.3f} s {case['peak_rss_mb']:7} MB", flush=True)
    if options.json:
        print(json.dumps(result))
    else:
        print(f"{result['machine']}, torch {result['torch']}, sgemm {result['sgemm_gflops']} GFLOP/s")


if __name__ == "__main__":
    main()
