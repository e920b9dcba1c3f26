#!/usr/bin/env python3
"""Full Hessian-vector products of networks on images: hesspec beside PyTorch on one machine in one run, as a Markdown table.

    benches/vs_pytorch_networks.py [--networks resnet18_32 vit_224 ...] [--hesspec target/debug/hesspec] [--python VENV/bin/python]
                                   [--slots 4] [--rounds 3] [--repeats 1] [--out FILE]

Rounds alternate between the two programs and each figure is the median over rounds, so that a drift of the machine's speed hits
both. PyTorch needs torchvision and timm in its environment. Its ways, in seconds for one vector:

    double backward      gradient with its graph, then the gradient of <gradient, v>
    graph kept           the second half alone: the first graph is kept from vector to vector
    vectorised           forward over reverse, torch.func.vmap(jvp(grad)) over as many vectors as there are slots
    compiled             that under torch.compile; only if asked for by --ways: compiling ResNet18 alone takes many minutes
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
# [model] as TOML, images of a micro-batch, side of the images, what they are.
NETWORKS = {
    "resnet18_32": ('[model.resnet]\npreset = "18"\nstem = "cifar"\nimage = [32, 32]\nbatch_norm = "train"', 16, 32, "ResNet18, 32 x 32, BatchNorm in train mode"),
    "resnet18_224": ('[model.resnet]\npreset = "18"\nimage = [224, 224]\nclasses = 1000\nbatch_norm = "train"', 4, 224, "ResNet18, 224 x 224, BatchNorm in train mode"),
    "vgg16_32": ('[model.vgg]\npreset = "16"\nimage = [32, 32]\nhidden = 0\npool = 1', 16, 32, "VGG16, 32 x 32, one layer of logits"),
    "vgg16_bn_32": ('[model.vgg]\npreset = "16"\nimage = [32, 32]\nhidden = 0\npool = 1\nbatch_norm = "train"', 16, 32, "VGG16, 32 x 32, one layer of logits, BatchNorm in train mode"),
    "vit_224": ('[model.vit]\npreset = "base"', 4, 224, "ViT-B/16, 224 x 224"),
}
WAYS = ["double backward", "graph kept", "vectorised", "compiled"]


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--hesspec", default="target/debug/hesspec")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has torch, torchvision and timm")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS[:3])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", help="also write the table here")
    parser.add_argument("--torch", help=argparse.SUPPRESS)  # this process times PyTorch's way "network:way"
    return parser.parse_args()


def module(name):
    """The network as PyTorch has it, in train mode (none has dropout)."""
    import torch
    if name.startswith("vit"):
        import timm
        from timm.layers import set_fused_attn
        set_fused_attn(False)  # PyTorch's fused attention has no second derivative
        return timm.create_model("vit_base_patch16_224")
    import torchvision
    if name == "resnet18_224":
        return torchvision.models.resnet18()
    if name == "resnet18_32":
        net = torchvision.models.resnet18(num_classes=10)
        net.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        net.maxpool = torch.nn.Identity()
    else:
        net = torchvision.models.vgg16_bn() if "bn" in name else torchvision.models.vgg16()
        net.avgpool = torch.nn.AdaptiveAvgPool2d(1)
        net.classifier = torch.nn.Linear(512, 10)
    for part in net.modules():
        if isinstance(part, torch.nn.ReLU):
            part.inplace = False
    return net


def time_torch(options):
    """Prints seconds for one vector and the peak memory of one of PyTorch's ways."""
    import torch
    from torch.func import functional_call, grad, jvp, vmap

    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    name, way = options.torch.split(":")
    _, batch, side, _ = NETWORKS[name]
    net = module(name)
    for part in net.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.track_running_stats, part.running_mean, part.running_var, part.num_batches_tracked = False, None, None, None
    images, labels = torch.randn(batch, 3, side, side), torch.randint(10, (batch,))
    parameters = {key: value.detach() for key, value in net.named_parameters()}
    loss = lambda p: torch.nn.functional.cross_entropy(functional_call(net, p, (images,)), labels)
    random = lambda *lead: {key: torch.randn(*lead, *value.shape) for key, value in parameters.items()}

    if way in ("double backward", "graph kept"):
        leaves = {key: value.requires_grad_() for key, value in parameters.items()}
        vector = list(random().values())
        gradients = lambda: torch.autograd.grad(loss(leaves), list(leaves.values()), create_graph=True)
        kept = gradients() if way == "graph kept" else None
        again = kept is not None
        product = lambda: torch.autograd.grad(kept or gradients(), list(leaves.values()), vector, retain_graph=again)
        vectors = 1
    else:
        vectors = options.slots
        products = vmap(lambda v: jvp(grad(loss), (parameters,), (v,))[1])
        if way == "compiled":
            products = torch.compile(products)
        tangents = random(vectors)
        product = lambda: products(tangents)
    product()
    seconds = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        product()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(dict(seconds=statistics.median(seconds) / vectors, mb=peak, torch=torch.__version__)))


def run(command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=HERE.parent)
    return done.stdout, done.stderr, done.returncode


def ours(options, name, folder):
    """One round of `hesspec bench`."""
    model, batch, _, _ = NETWORKS[name]
    config = Path(folder) / f"{name}.toml"
    config.write_text(f'{model}\n[data.images]\npath = "none"\nlabels = "none"\n[batch]\nsamples = {batch}\nmicro_batch = {batch}\n'
                      f'[blocks]\ninclude = ["*{{fc,classifier.0,head}}.weight"]\n[run]\nthreads = {options.threads}\n')
    out, err, code = run([options.hesspec, "bench", config, "--json", "--slots", options.slots, "--repeats", options.repeats])
    if code:
        sys.exit(f"hesspec bench {name}: exit {code}\n{err[-2000:]}")
    bench = json.loads(out)
    full = next(case for case in bench["cases"] if case["what"] == "full")
    return dict(seconds=full["seconds_per_slot"], mb=full["peak_rss_mb"], cpu=bench["machine"]["cpu"], sgemm=bench["sgemm_gflops"], share=full["share_of_sgemm"])


def theirs(options, name, way):
    """One round of one of PyTorch's ways; `None` and the reason where it cannot."""
    out, err, code = run([options.python, __file__, "--torch", f"{name}:{way}", "--threads", options.threads, "--slots", options.slots, "--repeats", options.repeats])
    if code:
        lines = [line for line in err.strip().splitlines() if line.strip()]
        print(f"PyTorch, {name}, {way}: {lines[-1] if lines else code}", file=sys.stderr)
        return None
    return json.loads(out)


def main():
    options = parse()
    if options.torch:
        return time_torch(options)
    rows, torch = [], None
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks:
            rounds = []
            for _ in range(options.rounds):
                rounds.append({"hesspec": ours(options, name, folder), **{way: theirs(options, name, way) for way in options.ways}})
            middle = lambda way, field: statistics.median(r[way][field] for r in rounds)
            seconds, mb = middle("hesspec", "seconds"), middle("hesspec", "mb")
            cells = [NETWORKS[name][3], NETWORKS[name][1], f"{seconds:.3f}", f"{mb:.0f}", f"{middle('hesspec', 'share'):.2f}"]
            for way in options.ways:
                if all(r[way] for r in rounds):
                    torch = rounds[0][way]["torch"]
                    cells.append(f"{middle(way, 'seconds') / seconds:.2f} ({middle(way, 'seconds'):.3f} s, {middle(way, 'mb'):.0f} MB)")
                else:
                    cells.append("fails")
            rows.append(cells)
            cpu, sgemm = rounds[0]["hesspec"]["cpu"], middle("hesspec", "sgemm")
    lines = [
        f"# Networks on images: full products, hesspec with {options.slots} slots beside PyTorch {torch}",
        "",
        f"{cpu} ({platform.machine()}), {options.threads} threads, f32, hesspec's sgemm {sgemm:.0f} GFLOP/s; median of {options.rounds} alternating rounds. "
        "Ratios above 1: hesspec is faster; in brackets PyTorch's seconds for one vector and its peak memory.",
        f"Command: `benches/vs_pytorch_networks.py --networks {' '.join(options.networks)} --slots {options.slots} --rounds {options.rounds} --repeats {options.repeats}`.",
        "",
        "| network | images | s a product | MB | share of sgemm | " + " | ".join(options.ways) + " |",
        "|" + "---|" * (5 + len(options.ways)),
        *("| " + " | ".join(map(str, cells)) + " |" for cells in rows),
    ]
    text = "\n".join(lines)
    print(text)
    if options.out:
        Path(options.out).write_text(text + "\n")


main()
