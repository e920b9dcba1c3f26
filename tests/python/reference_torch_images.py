#!/usr/bin/env python3
"""Networks on images against torchvision's and timm's, losses and products.

    reference_torch_images.py --dir D --hesspec PATH [--large]

Random weights and running statistics are saved by torch, as safetensors or a .pth of a state_dict with torchvision's names
(`num_batches_tracked` among them), made-up images as IDX or as CIFAR's binary files. Then hesspec's loss must be torch's to 1e-12
in f64 and 1e-5 in f32 (relative), and H v of the whole and of every parameter that of torch's double backward in f64, to 1e-10
and 1e-4 in the norm of all of H v.

    resnet     torchvision's BasicBlocks, tiny: both stems, BatchNorm in eval mode and in train mode, where each micro-batch has its own
               statistics (the last one is smaller)
    vgg        torchvision's make_layers, tiny: without BatchNorm and with it in both modes; classifiers of one layer and of three
    vit        timm's VisionTransformer, tiny
    real       torchvision's resnet18 itself in f32, three parameters and the whole; --large: and resnet34, vgg11_bn

Needs torch, torchvision, timm, numpy, safetensors.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import numpy as np
import timm
import torch
import torch.nn as nn
import torchvision
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock
from torchvision.models.vgg import make_layers

CLASSES = 3
IMAGES, MICRO_BATCH = 10, 4
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
checks = failures = 0


def check(name, value, limit):
    global checks, failures
    checks += 1
    failures += not value <= limit  # NaN fails
    print(f"{'ok   ' if value <= limit else 'FAIL '} {name}: {value:.2e} (at most {limit:.0e})", flush=True)


class ResNet(nn.Module):
    """torchvision's ResNet with widths, numbers of stages and stems of one's own."""

    def __init__(self, blocks, widths, channels, stem, stem_width):
        super().__init__()
        side, stride = (7, 2) if stem == "imagenet" else (3, 1)
        self.conv1 = nn.Conv2d(channels, stem_width, side, stride, side // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(stem_width)
        self.pool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        self.stages = len(blocks)
        inputs = stem_width
        for stage, (count, width) in enumerate(zip(blocks, widths)):
            layers = []
            for at in range(count):
                stride = 2 if stage > 0 and at == 0 else 1
                projected = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))
                layers.append(BasicBlock(inputs, width, stride, projected if stride != 1 or inputs != width else None))
                inputs = width
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(inputs, CLASSES)

    def forward(self, x):
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.fc(x.mean((2, 3)))


class Vgg(nn.Module):
    """torchvision's VGG with a classifier of one's own."""

    def __init__(self, steps, batch_norm, width, pool, hidden):
        super().__init__()
        self.features = make_layers(steps, batch_norm)
        self.avgpool = nn.AdaptiveAvgPool2d(pool)
        sizes = [width * pool * pool, *([hidden, hidden] if hidden else []), CLASSES]
        layers = [nn.Linear(sizes[0], sizes[1])]
        for inputs, outputs in zip(sizes[1:], sizes[2:]):
            layers += [nn.ReLU(), nn.Dropout(0.0), nn.Linear(inputs, outputs)]
        self.classifier = nn.Sequential(*layers)

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def randomised(model):
    """Every parameter and running statistic, far from where it starts."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_((0.1 if parameter.dim() > 1 else 0.3) * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0.0, 0.3)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
    return model


def double_inputs(pixels):
    """What hesspec makes of the pixels, (images, channels, height, width)."""
    x = torch.tensor(pixels, dtype=torch.float64) / 255
    channels = pixels.shape[1]
    mean, std = (torch.tensor(v[:channels], dtype=torch.float64).view(1, -1, 1, 1) for v in (MEAN, STD))
    return (x - mean) / std


class Case:
    """A folder with weights, images and a configuration, and hesspec in it."""

    def __init__(self, folder, program, kind, keys, model, pixels, classes, train, pth, pad=0):
        self.folder, self.program, self.train = folder, program, train
        self.model = model.double()
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(5)
        labels = rng.integers(0, classes, len(pixels), np.uint8)
        channels = pixels.shape[1]
        if channels == 3:
            records = [bytes([label]) + image.tobytes() for label, image in zip(labels, pixels)]
            cut = len(records) // 2
            (folder / "data_batch_1.bin").write_bytes(b"".join(records[:cut]))
            (folder / "data_batch_2.bin").write_bytes(b"".join(records[cut:]))
            data = 'path = "data_batch_*.bin"\n'
        else:
            idx = lambda array: bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
            (folder / "images.idx").write_bytes(idx(pixels[:, 0]))
            (folder / "labels.idx").write_bytes(idx(labels))
            data = 'path = "images.idx"\nlabels = "labels.idx"\n'
        single = channels == 1
        data += f"mean = {MEAN[0] if single else MEAN}\nstd = {STD[0] if single else STD}\n"
        data += f"pad = {pad}\n" if pad else ""
        weights = "model.pth" if pth else "model.safetensors"
        state = {name: value.clone() for name, value in model.state_dict().items()}
        torch.save(state, folder / weights) if pth else save_file(state, folder / weights)
        lines = [f"{key} = {json.dumps(value)}" for key, value in {**keys, "weights": weights}.items()]
        (folder / "config.toml").write_text(
            f"[model.{kind}]\n" + "\n".join(lines) + f"\n\n[data.images]\n{data}\n"
            f"[batch]\nsamples = {len(pixels)}\nmicro_batch = {MICRO_BATCH}\n"
        )
        padded = np.pad(pixels, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        self.x, self.labels = double_inputs(padded), torch.tensor(labels.astype(np.int64))
        torch.manual_seed(9)
        self.named = dict(self.model.named_parameters())
        self.vector = {name: torch.randn(p.shape, dtype=torch.float64) for name, p in self.named.items()}

    def hesspec(self, *arguments):
        done = subprocess.run([self.program, *arguments], cwd=self.folder, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{self.folder}: hesspec {' '.join(arguments)}: exit {done.returncode}\n{done.stderr}")
        return done.stdout

    def loss(self):
        """Mean over all images; in train mode each micro-batch is normalised by itself."""
        self.model.train(self.train)
        parts = range(0, len(self.x), MICRO_BATCH) if self.train else [0]
        size = MICRO_BATCH if self.train else len(self.x)
        total = 0
        for at in parts:
            x, labels = self.x[at : at + size], self.labels[at : at + size]
            total = total + F.cross_entropy(self.model(x), labels, reduction="sum")
        return total / len(self.x)

    def compare(self, name, precision, blocks, loss_limit, product_limit):
        """Loss, and H v of the whole and of blocks, which are single parameters; `None`: of all."""
        set_precision = ("--set", f"hessian.precision={precision}")
        value = self.loss()
        found = json.loads(self.hesspec("hvp", "config.toml", "--loss", "--json", *set_precision))["loss"]
        check(f"{name}, {precision}: loss {value.item():.6f}", abs(found - value.item()) / abs(value.item()), loss_limit)
        dtype = torch.float64 if precision == "f64" else torch.float32
        save_file({n: v.to(dtype) for n, v in self.vector.items()}, self.folder / "v.safetensors")
        vector = {n: v.to(dtype).double() for n, v in self.vector.items()}
        parameters = list(self.named.values())
        gradient = dict(zip(self.named, torch.autograd.grad(value, parameters, create_graph=True)))
        worst = 0.0
        for block in ["full", *(self.named if blocks is None else blocks)]:
            self.hesspec("hvp", "config.toml", "--vectors", "v.safetensors", "--out", "hv.safetensors", "--block", block, *set_precision)
            found = load_file(self.folder / "hv.safetensors")
            active = list(self.named) if block == "full" else [block]
            slope = sum((gradient[n] * vector[n]).sum() for n in active)
            expected = torch.autograd.grad(slope, [self.named[n] for n in active], retain_graph=True, materialize_grads=True)
            difference = sum(float(((found[n].double() - e) ** 2).sum()) for n, e in zip(active, expected)) ** 0.5
            norm = sum(float((e**2).sum()) for e in expected) ** 0.5
            if block == "full":
                whole = norm
                check(f"{name}, {precision}: H v of the whole, norm {norm:.3g}", difference / whole, product_limit)
            else:
                # a bias in front of a BatchNorm in train mode has no curvature at all
                worst = max(worst, difference / max(norm, 1e-6 * whole))
        check(f"{name}, {precision}: H v of {len(self.named) if blocks is None else len(blocks)} parameters, the worst", worst, product_limit)


def pixels(channels, side):
    return np.random.default_rng(3).integers(0, 256, (IMAGES, channels, side, side), np.uint8)


def tiny(folder, program):
    for stem, stem_width, blocks, widths, channels, batch_norm in [
        ("cifar", 4, [1, 1], [4, 6], 1, "eval"),
        ("cifar", 4, [2, 1], [4, 6], 1, "train"),
        ("imagenet", 3, [1, 1, 1, 1], [4, 4, 5, 6], 3, "eval"),
        ("imagenet", 3, [1, 2], [4, 5], 3, "train"),
    ]:
        torch.manual_seed(7)
        model = randomised(ResNet(blocks, widths, channels, stem, stem_width))
        keys = dict(blocks=blocks, widths=widths, stem=stem, stem_width=stem_width, channels=channels, classes=CLASSES, batch_norm=batch_norm)
        name = f"resnet, {stem}, {batch_norm}"
        pad = 1 if channels == 1 else 0
        at = folder / f"resnet-{stem}-{batch_norm}"
        case = Case(at, program, "resnet", keys, model, pixels(channels, 32 if channels == 3 else 7), CLASSES, batch_norm == "train", channels == 3, pad)
        case.compare(name, "f64", None, 1e-12, 1e-10)
        case.compare(name, "f32", None, 1e-5, 1e-4)
    for convolutions, widths, batch_norm, hidden, pool in [
        ([1, 2], [4, 5], "none", 0, 1),
        ([1, 1, 2], [4, 5, 6], "eval", 5, 3),
        ([1, 2], [4, 5], "train", 6, 2),
        ([1, 1, 1, 1, 1], [4, 4, 4, 4, 4], "none", 5, 7),  # 1 x 1 planes, each of them 49 times
    ]:
        torch.manual_seed(8)
        steps = [step for count, width in zip(convolutions, widths) for step in [width] * count + ["M"]]
        model = randomised(Vgg(steps, batch_norm != "none", widths[-1], pool, hidden))
        keys = dict(convolutions=convolutions, widths=widths, batch_norm=batch_norm, hidden=hidden, pool=pool, classes=CLASSES)
        name = f"vgg, {batch_norm}, {len(convolutions)} stages"
        at = folder / f"vgg-{batch_norm}-{len(convolutions)}"
        case = Case(at, program, "vgg", keys, model, pixels(3, 32), CLASSES, batch_norm == "train", batch_norm == "eval")
        case.compare(name, "f64", None, 1e-12, 1e-10)
        case.compare(name, "f32", None, 1e-5, 1e-4)


def vit(folder, program):
    torch.manual_seed(6)
    timm.layers.set_fused_attn(False)  # torch has no second derivative of its fused attention
    sizes = dict(embedding=12, layers=2, heads=3, mlp=20)
    model = randomised(timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=16, embed_dim=12, depth=2, num_heads=3, mlp_ratio=20 / 12, num_classes=CLASSES
    ))
    keys = dict(image=[32, 32], patch=16, classes=CLASSES, **sizes)
    case = Case(folder / "vit", program, "vit", keys, model, pixels(3, 32), CLASSES, False, False)
    whole = [name for name in case.named if ".qkv." not in name]  # queries, keys and values are blocks of their own
    case.compare("vit", "f64", whole, 1e-12, 1e-10)
    case.compare("vit", "f32", whole, 1e-5, 1e-4)


def real(folder, program, large):
    cases = [("resnet18", "resnet", dict(preset="18", image=[32, 32]), ["conv1.weight", "layer2.0.downsample.0.weight", "layer4.1.bn2.weight"])]
    if large:
        cases += [
            ("resnet34", "resnet", dict(preset="34"), ["layer3.5.conv2.weight"]),
            ("vgg11_bn", "vgg", dict(preset="11", batch_norm="eval"), ["features.8.weight", "classifier.6.weight"]),
        ]
    for name, kind, keys, blocks in cases:
        torch.manual_seed(4)
        model = randomised_a_little(getattr(torchvision.models, name)(num_classes=10))
        for module in model.modules():
            module.p = 0.0 if isinstance(module, nn.Dropout) else getattr(module, "p", None)
        case = Case(folder / name, program, kind, {**keys, "classes": 10}, model, pixels(3, 32), 10, False, True)
        case.compare(f"torchvision's {name}", "f32", blocks, 1e-5, 1e-4)


def randomised_a_little(model):
    """Running statistics that keep a deep network's activations in range."""
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0.0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(1.0, 2.0)
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=pathlib.Path, required=True)
    parser.add_argument("--hesspec", required=True)
    parser.add_argument("--large", action="store_true", help="ResNet-34 and VGG-11 as well")
    options = parser.parse_args()
    program = str(pathlib.Path(options.hesspec).resolve())
    tiny(options.dir, program)
    vit(options.dir, program)
    real(options.dir, program, options.large)
    print(f"{checks} checks, {failures} failed")
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
