#!/usr/bin/env python3
"""Training against PyTorch's optimizers, step for step.

    reference_torch_training.py --dir D --hesspec PATH

hesspec trains a perceptron on made-up images and a small GPT-2 on made-up tokens for 100 steps in f64, and writes its weights and the
optimizer's state after each of them. PyTorch begins with the weights of step 0, draws the same samples (the order of an epoch is
recomputed here from its definition), and must have the same parameters after every step, to 1e-6 of their norm, and the same state of its
optimizer at the end, to 1e-6.

    sgd, momentum, nesterov      torch.optim.SGD, with weight decay
    adam, adamw                  torch.optim.Adam and AdamW; AdamW also clipped by clip_grad_norm_, with a warm-up and a cosine
    uncorrected                  Adam without bias correction, in NumPy, its moments beginning with zero and with the first gradient

Then AdamW on GPT-2 in f32 (loss at the end to 1e-3 of f64's), and on two ranks in f64 (the loss after 50 steps to 1e-5).
Needs torch, transformers, numpy, safetensors.
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys

import numpy as np
import torch
import torch.nn as nn
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

STEPS = 100
SIZES, IMAGES = [12, 10, 8, 3], 50
GPT2 = dict(layers=2, heads=2, embedding=16, mlp=32, context=8, vocabulary=29)
TOKENS, WINDOWS = 400, 40
BATCH, MICRO_BATCH, SEED = 12, 5, 11
RATE = 0.02
checks = failures = 0


def check(name, value, limit):
    global checks, failures
    checks += 1
    failures += not value <= limit  # NaN fails
    print(f"{'ok   ' if value <= limit else 'FAIL '} {name}: {value:.2e} (at most {limit:.0e})", flush=True)


# the order of samples, from its definition in src/data/permutation.rs and src/datasets/drawn.rs

MASK = (1 << 64) - 1


def mix(z):
    """The finaliser of splitmix64."""
    z = (z + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def permuted(index, length, seed):
    """The image of an index under a Feistel network of eight rounds, with cycle walking."""
    half = max(1, -(-(length - 1).bit_length() // 2))
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for number in range(8):
            key = mix(seed ^ mix(number + 1))
            left, right = right, left ^ (mix(key ^ right) & mask)
        index = left << half | right
        if index < length:
            return index


def drawn(step, available):
    """The samples of a step, from 0."""
    numbers = range(step * BATCH, (step + 1) * BATCH)
    return [permuted(i % available, available, mix((mix(SEED) + i // available) & MASK)) for i in numbers]


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(SIZES, SIZES[1:]))

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class OnImages:
    """The perceptron, its images and its configuration."""

    kind, network = "mlp", f"sizes = {SIZES}\n"

    def __init__(self, folder):
        rng = np.random.default_rng(5)
        pixels, labels = rng.integers(0, 256, (IMAGES, 3, 4), np.uint8), rng.integers(0, 3, IMAGES, np.uint8)
        idx = lambda array: bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
        (folder / "images.idx").write_bytes(idx(pixels))
        (folder / "labels.idx").write_bytes(idx(labels))
        self.data = '[data.images]\npath = "images.idx"\nlabels = "labels.idx"\nmean = 0.5\nstd = 0.25\n'
        x = (torch.tensor(pixels, dtype=torch.float64) / 255 - 0.5) / 0.25
        self.x, self.y = x.flatten(1), torch.tensor(labels.astype(np.int64))

    def model(self, weights):
        model = Mlp().double()
        model.load_state_dict(weights)
        return model

    def loss(self, model, step):
        at = drawn(step, IMAGES)
        return F.cross_entropy(model(self.x[at]), self.y[at])


class OnTokens:
    """The small GPT-2, its tokens and its configuration."""

    kind = "gpt2"
    network = "".join(f"{key} = {value}\n" for key, value in GPT2.items()) + "bias = true\n"

    def __init__(self, folder):
        tokens = np.random.default_rng(6).integers(0, GPT2["vocabulary"], TOKENS).astype("<u2")
        (folder / "train.bin").write_bytes(tokens.tobytes())
        context = GPT2["context"]
        self.data = f'[data.tokens]\npath = "train.bin"\n[batch]\ntokens = {WINDOWS * context}\nmicro_batch = {MICRO_BATCH}\n'
        windows = np.stack([tokens[at * context : (at + 1) * context + 1] for at in range(WINDOWS)]).astype(np.int64)
        self.windows = torch.tensor(windows)

    def model(self, weights):
        config = GPT2Config(
            n_layer=GPT2["layers"], n_head=GPT2["heads"], n_embd=GPT2["embedding"], n_inner=GPT2["mlp"],
            n_positions=GPT2["context"], vocab_size=GPT2["vocabulary"], activation_function="gelu",
            attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
        )
        model = GPT2LMHeadModel(config).double()
        missing = model.load_state_dict(weights, strict=False)
        assert set(missing.missing_keys) <= {"lm_head.weight"} and not missing.unexpected_keys, missing
        model.tie_weights()
        return model.train()

    def loss(self, model, step):
        windows = self.windows[drawn(step, WINDOWS)]
        logits = model(windows[:, :-1]).logits
        return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


class NumpyAdam:
    """Adam without bias correction."""

    def __init__(self, parameters, lr, betas, eps, begins):
        self.parameters, self.lr, self.betas, self.eps, self.begins = parameters, lr, betas, eps, begins
        self.m = [np.zeros(p.shape) for p in parameters]
        self.v = [np.zeros(p.shape) for p in parameters]
        self.param_groups = [{"lr": lr}]
        self.is_first = True

    def zero_grad(self):
        for parameter in self.parameters:
            parameter.grad = None

    def step(self):
        (b1, b2), lr = self.betas, self.param_groups[0]["lr"]
        for at, parameter in enumerate(self.parameters):
            g = parameter.grad.numpy()
            if self.is_first and self.begins:
                self.m[at], self.v[at] = g.copy(), g * g
            else:
                self.m[at] = b1 * self.m[at] + (1 - b1) * g
                self.v[at] = b2 * self.v[at] + (1 - b2) * g * g
            parameter.data -= torch.tensor(lr * self.m[at] / (np.sqrt(self.v[at]) + self.eps))
        self.is_first = False

    def kept(self, at):
        return {"exp_avg": torch.tensor(self.m[at]), "exp_avg_sq": torch.tensor(self.v[at])}


def torch_kept(optimizer, parameter):
    state = optimizer.state[parameter]
    names = ("momentum_buffer", "exp_avg", "exp_avg_sq")
    return {name: state[name] for name in names if isinstance(state.get(name), torch.Tensor)}


def rate_of(keys, step):
    """nanoGPT's get_lr."""
    warmup = keys.get("warmup", 0)
    if step < warmup:
        return RATE * (step + 1) / (warmup + 1)
    if keys.get("schedule") != "cosine":
        return RATE
    end = RATE * keys.get("decay_to", 0.0)
    return end + 0.5 * (1 + math.cos(math.pi * (step - warmup) / (STEPS - warmup))) * (RATE - end)


# Biases of attention's keys have a gradient of exactly 0, so that what decay adds to it is all there is: an epsilon well above
# rate x decay keeps rounding errors of it small.
CASES = {
    "sgd": (dict(optimizer="sgd"), lambda p: torch.optim.SGD(p, lr=RATE)),
    "momentum": (
        dict(optimizer="sgd", momentum=0.9, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, lr=RATE, momentum=0.9, weight_decay=0.01),
    ),
    "nesterov": (
        dict(optimizer="sgd", momentum=0.8, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=RATE, momentum=0.8, nesterov=True),
    ),
    "adam": (
        dict(optimizer="adam", beta1=0.8, beta2=0.95, epsilon=1e-3, weight_decay=0.01),
        lambda p: torch.optim.Adam(p, lr=RATE, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.01),
    ),
    "adamw": (dict(optimizer="adamw"), lambda p: torch.optim.AdamW(p, lr=RATE)),
    "adamw, clipped, cosine": (
        dict(optimizer="adamw", beta2=0.95, weight_decay=0.1, clip=0.3, warmup=10, schedule="cosine", decay_to=0.1),
        lambda p: torch.optim.AdamW(p, lr=RATE, betas=(0.9, 0.95), weight_decay=0.1),
    ),
    "uncorrected": (
        dict(optimizer="adam", beta2=0.99, epsilon=1e-4, bias_correction=False),
        lambda p: NumpyAdam(p, RATE, (0.9, 0.99), 1e-4, False),
    ),
    "uncorrected, begun with the gradient": (
        dict(optimizer="adam", beta2=0.99, epsilon=1e-4, bias_correction=False, moments="gradient"),
        lambda p: NumpyAdam(p, RATE, (0.9, 0.99), 1e-4, True),
    ),
}


def hesspec(program, folder, *arguments):
    done = subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"hesspec {' '.join(arguments)}: exit {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)


def configuration(subject, keys, name):
    batch = "" if "[batch]" in subject.data else f"[batch]\nmicro_batch = {MICRO_BATCH}\n"
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
    shares = [step / STEPS for step in range(STEPS + 1)]
    return (
        f'[run]\nname = "{name}"\nseed = {SEED}\n[model.{subject.kind}]\n{subject.network}\n{subject.data}\n{batch}\n'
        f'[hessian]\nprecision = "f64"\n[train]\nsteps = {STEPS}\nbatch = {BATCH}\nlearning_rate = {RATE}\n{lines}\ncheckpoints = {shares}\n'
    )


def compare(program, folder, subject, case):
    keys, make = CASES[case]
    name = f"{subject.kind}-" + case.replace(", ", "-").replace(" ", "-")
    (folder / f"{name}.toml").write_text(configuration(subject, keys, name))
    hesspec(program, folder, "train", f"{name}.toml", "--json", "--output", "out")
    files = [folder / f"out/checkpoints/run={name}/step-{step:07}" for step in range(STEPS + 1)]
    weights = [load_file(at / "model.safetensors") for at in files]
    model = subject.model(weights[0])
    named = {key: value for key, value in model.named_parameters() if key in weights[0]}
    optimizer = make(list(named.values()))
    worst, clipped = 0.0, 0
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = rate_of(keys, step)
        optimizer.zero_grad()
        subject.loss(model, step).backward()
        if "clip" in keys:
            clipped += int(nn.utils.clip_grad_norm_(named.values(), keys["clip"]) > keys["clip"])
        optimizer.step()
        ours = weights[step + 1]
        error = math.sqrt(sum(float((ours[key] - p.detach()).square().sum()) for key, p in named.items()))
        worst = max(worst, error / math.sqrt(sum(float(p.detach().square().sum()) for p in named.values())))
    check(f"{subject.kind}, {case}: parameters after each of {STEPS} steps", worst, 1e-6)
    if "clip" in keys:
        check(f"{subject.kind}, {case}: steps that are not clipped, of {STEPS}", STEPS - clipped, STEPS - 20)
    state = load_file(files[-1] / "optimizer.safetensors")
    error = count = 0
    for at, (key, parameter) in enumerate(named.items()):
        kept = optimizer.kept(at) if isinstance(optimizer, NumpyAdam) else torch_kept(optimizer, parameter)
        for what, value in kept.items():
            ours = state[f"{what}.{key}"]
            error = max(error, float((ours - value).norm() / value.norm().clamp_min(1e-300)))
            count += 1
    check(f"{subject.kind}, {case}: the optimizer's tensors that are not PyTorch's {count}", abs(len(state) - count), 0)
    if count:
        check(f"{subject.kind}, {case}: these tensors", error, 1e-6)


def other_ways(program, folder, subject):
    """In f32, and on two ranks."""
    text = configuration(subject, CASES["adamw"][0], "ways")
    (folder / "ways.toml").write_text(text)
    sets = ["--set", "train.checkpoints=[]", "--set", "train.steps=50"]
    run = lambda output, *more: hesspec(program, folder, "train", "ways.toml", "--json", "--output", output, *sets, *more)
    one = run("one")["runs"][0]["loss"]
    two = run("two", "--set", "run.ranks=2")["runs"][0]["loss"]
    narrow = run("narrow", "--set", 'hessian.precision="f32"')["runs"][0]["loss"]
    check("two ranks, the loss after 50 steps", abs(two / one - 1), 1e-5)
    check("f32, the loss after 50 steps", abs(narrow / one - 1), 1e-3)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=pathlib.Path, required=True)
    parser.add_argument("--hesspec", required=True)
    options = parser.parse_args()
    program = str(pathlib.Path(options.hesspec).resolve())
    options.dir.mkdir(parents=True, exist_ok=True)
    for subject in [OnImages(options.dir), OnTokens(options.dir)]:
        for case in CASES:
            compare(program, options.dir, subject, case)
    other_ways(program, options.dir, OnTokens(options.dir))
    print(f"{checks} checks, {failures} failed")
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
