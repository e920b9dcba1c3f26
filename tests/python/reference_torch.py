#!/usr/bin/env python3
"""Weights in the formats in which people have them, against the implementations that write them.

    reference_torch.py --dir D --hesspec PATH [--large]

Random weights are saved by the real programs, read by hesspec, and the loss must be theirs to 1e-5 (relative, f32):

    hf         transformers' GPT2LMHeadModel.save_pretrained: safetensors, Conv1D layout, biases, tanh GELU, tied head
    nanogpt    nanoGPT's ckpt.pt by torch.save, out of torch.compile (`_orig_mod.`), with optimizer state, best_val_loss as a
               tensor, and causal masks as buffers
    ddp        the same without biases, out of DistributedDataParallel (`module.`), in bfloat16
    paper      the paper's naming, attn.wq, wk, wv, wo

    bare       the same and more with nothing but `weights` in the configuration, sizes and variants from what stands beside them: folders
               of save_pretrained (whole, in shards, bfloat16, pytorch_model.bin), save_model of the tied network, nanoGPT's
               model_args, torch.save of before 1.6, names wrapped by PEFT and FSDP

    mlp        the paper's perceptron, 784-300-128-64-10, as a torch.nn module's state_dict, on 64 made-up images; also H v of the
               whole and of a layer, for c = 1 and 3, to 1e-5 of double backward in f64

    decoders   transformers' Llama (3.1's rotary scaling, biases, shards), SmolLM's tied head, Mistral, Qwen 2 and 3, OLMo 2, with nothing but
               `weights`; also H v of the whole and of two blocks of each, to 1e-4 of double backward in f64

Each of GPT-2's is exported again in every naming, and torch loads that with strict=True to the same loss. --large: H v of GPT-2 with
124 M parameters in the hf format, three blocks and the whole network on 1 x 128 tokens, to 1e-4 of double backward in f64.
Needs torch, transformers, numpy, safetensors.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import numpy as np
import torch
import torch.nn as nn
from safetensors.torch import load_file, save_file, save_model
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, MistralConfig, Olmo2Config, Qwen2Config, Qwen3Config,
)

SMALL = dict(layers=2, heads=2, embedding=16, mlp=64, context=12, vocabulary=97)
GPT2 = dict(layers=12, heads=12, embedding=768, mlp=3072, context=128, vocabulary=50257)
WINDOWS = 3
checks = failures = 0


def check(name, value, limit):
    global checks, failures
    checks += 1
    failures += not value <= limit  # NaN fails
    print(f"{'ok   ' if value <= limit else 'FAIL '} {name}: {value:.2e} (at most {limit:.0e})", flush=True)


class Norm(nn.Module):
    """LayerNorm with or without a bias, as nanoGPT's."""

    def __init__(self, width, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class Attention(nn.Module):
    def __init__(self, m, bias, paper):
        super().__init__()
        width, self.heads, self.paper = m["embedding"], m["heads"], paper
        names = ["wq", "wk", "wv", "wo"] if paper else ["c_proj"]
        for name in names:
            setattr(self, name, nn.Linear(width, width, bias=bias))
        if not paper:
            self.c_attn = nn.Linear(width, 3 * width, bias=bias)
            mask = torch.tril(torch.ones(m["context"], m["context"])).view(1, 1, m["context"], m["context"])
            self.register_buffer("bias", mask)  # nanoGPT without flash attention

    def forward(self, x):
        batch, time, width = x.shape
        parts = (self.wq(x), self.wk(x), self.wv(x)) if self.paper else self.c_attn(x).split(width, dim=2)
        q, k, v = (y.view(batch, time, self.heads, width // self.heads).transpose(1, 2) for y in parts)
        scores = (q @ k.transpose(2, 3)) * (width // self.heads) ** -0.5
        future = torch.ones(time, time, dtype=torch.bool).triu(1)
        y = (scores.masked_fill(future, float("-inf")).softmax(-1) @ v).transpose(1, 2).reshape(batch, time, width)
        return (self.wo if self.paper else self.c_proj)(y)


class Mlp(nn.Module):
    def __init__(self, m, bias):
        super().__init__()
        self.c_fc = nn.Linear(m["embedding"], m["mlp"], bias=bias)
        self.c_proj = nn.Linear(m["mlp"], m["embedding"], bias=bias)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x)))


class Layer(nn.Module):
    def __init__(self, m, bias, paper):
        super().__init__()
        self.ln_1, self.ln_2 = Norm(m["embedding"], bias), Norm(m["embedding"], bias)
        self.attn, self.mlp = Attention(m, bias, paper), Mlp(m, bias)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Gpt(nn.Module):
    """nanoGPT's module tree, or the paper's."""

    def __init__(self, m, bias=True, paper=False):
        super().__init__()
        self.transformer = nn.ModuleDict(dict(
            wte=nn.Embedding(m["vocabulary"], m["embedding"]),
            wpe=nn.Embedding(m["context"], m["embedding"]),
            h=nn.ModuleList([Layer(m, bias, paper) for _ in range(m["layers"])]),
            ln_f=Norm(m["embedding"], bias),
        ))
        self.lm_head = nn.Linear(m["embedding"], m["vocabulary"], bias=False)
        self.transformer.wte.weight = self.lm_head.weight

    def forward(self, ids):
        t = self.transformer
        x = t.wte(ids) + t.wpe(torch.arange(ids.shape[1]))
        for layer in t.h:
            x = layer(x)
        return self.lm_head(t.ln_f(x))


class Compiled(nn.Module):
    """What torch.compile returns: the model under `_orig_mod`."""

    def __init__(self, model):
        super().__init__()
        self._orig_mod = model


class Distributed(nn.Module):
    """What DistributedDataParallel is: the model under `module`."""

    def __init__(self, model):
        super().__init__()
        self.module = model


def randomised(model):
    """Every parameter, biases and LayerNorms too, far from its initialisation."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def transformers_gpt2(m):
    config = GPT2Config(
        n_layer=m["layers"], n_head=m["heads"], n_embd=m["embedding"], n_inner=m["mlp"], n_positions=m["context"],
        vocab_size=m["vocabulary"], resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, attn_implementation="eager",
    )
    return GPT2LMHeadModel(config).eval()


def logits(model, ids):
    out = model(ids)
    return out if torch.is_tensor(out) else out.logits


def loss(model, tokens, m):
    """Mean over all predicted tokens of consecutive windows."""
    context, count = m["context"], (len(tokens) - 1) // m["context"]
    ids = torch.tensor(tokens[: count * context].astype(np.int64)).view(count, context)
    targets = torch.tensor(tokens[1 : count * context + 1].astype(np.int64))
    return F.cross_entropy(logits(model, ids).flatten(0, 1), targets)


class Place:
    """A folder with tokens, and hesspec in it."""

    def __init__(self, folder, program, m, windows):
        self.folder, self.program, self.m = folder, program, m
        folder.mkdir(parents=True, exist_ok=True)
        self.tokens = np.random.default_rng(5).integers(0, m["vocabulary"], windows * m["context"] + 1).astype("<u2")
        self.tokens.tofile(folder / "train.bin")

    def configure(self, name, **more):
        keys = "\n".join(f"{key} = {json.dumps(value)}" for key, value in {**self.m, **more}.items())
        text = f'[model.gpt2]\n{keys}\n[data.tokens]\npath = "train.bin"\n'
        (self.folder / f"{name}.toml").write_text(text)

    def hesspec(self, *arguments):
        done = subprocess.run([self.program, *arguments], cwd=self.folder, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"hesspec {' '.join(arguments)}: exit {done.returncode}\n{done.stderr}")
        return done.stdout

    def loss(self, name):
        return json.loads(self.hesspec("hvp", f"{name}.toml", "--loss", "--json"))["loss"]


def relative(a, b):
    return abs(a - b) / abs(b)


def formats(place):
    m = place.m
    torch.manual_seed(7)
    cases = []

    model = randomised(transformers_gpt2(m))
    model.save_pretrained(place.folder / "hf")
    cases.append(("hf", model, "hf/model.safetensors", dict(bias=True, gelu="tanh")))

    model = randomised(Gpt(m))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    loss(model, place.tokens, m).backward()
    optimizer.step()  # so that it has a state
    checkpoint = dict(
        model=Compiled(model).state_dict(), optimizer=optimizer.state_dict(), model_args=dict(n_layer=2, bias=True), iter_num=1,
        best_val_loss=torch.tensor(1e9), config=dict(learning_rate=6e-4, dtype="bfloat16", compile=True, seed=2**40, device=None),
    )
    torch.save(checkpoint, place.folder / "ckpt.pt")
    cases.append(("nanogpt", model, "ckpt.pt", dict(bias=True)))

    model = randomised(Gpt(m, bias=False)).bfloat16()
    torch.save(dict(model=Distributed(model).state_dict()), place.folder / "ddp.pt")
    cases.append(("ddp", model.float(), "ddp.pt", dict(bias=False)))

    model = randomised(Gpt(m, bias=False, paper=True))
    torch.save(model.state_dict(), place.folder / "paper.pt")  # the bare table
    cases.append(("paper", model, "paper.pt", dict(bias=False)))
    return cases


def losses(place):
    for name, model, weights, more in formats(place):
        place.configure(name, weights=weights, **more)
        with torch.no_grad():
            reference = loss(model, place.tokens, place.m).item()
        found = place.loss(name)
        check(f"{name}: loss {reference:.6f}", relative(found, reference), 1e-5)
        if more.get("gelu") != "tanh":
            exports(place, name, more["bias"], reference)
    place.hesspec("weights", "export", "hf.toml", "again.safetensors")
    again = load_file(place.folder / "again.safetensors")
    original = {n: p for n, p in load_file(place.folder / "hf/model.safetensors").items() if n != "lm_head.weight"}
    same = again.keys() == original.keys() and all(torch.equal(again[n], original[n]) for n in again)
    check("hf: exported again to the last bit", 0.0 if same else 1.0, 0.0)


def exports(place, name, bias, reference):
    """torch loads what hesspec writes, in both of torch's namings and both kinds of file."""
    for naming in ["nanogpt", "paper"]:
        for ending in ["pt", "safetensors"]:
            out = f"{name}-{naming}.{ending}"
            place.hesspec("weights", "export", f"{name}.toml", out, "--naming", naming)
            state = torch.load(place.folder / out, weights_only=True)["model"] if ending == "pt" else load_file(place.folder / out)
            model = Gpt(place.m, bias, naming == "paper")
            state["lm_head.weight"] = state["transformer.wte.weight"]
            wanted = {key for key in model.state_dict() if not key.endswith(".attn.bias")}
            missing = wanted.symmetric_difference(state)
            model.load_state_dict(state, strict=False)
            with torch.no_grad():
                found = loss(model, place.tokens, place.m).item()
            check(f"{name}: as {out}, {len(missing)} names differ", relative(found, reference) + len(missing), 1e-5)


def bare(place):
    """Nothing is configured but where the weights are."""
    m = place.m
    torch.manual_seed(8)
    args = dict(
        n_layer=m["layers"], n_head=m["heads"], n_embd=m["embedding"], block_size=m["context"], vocab_size=m["vocabulary"], bias=True,
        dropout=0.0,
    )
    hf, nano = randomised(transformers_gpt2(m)), randomised(Gpt(m))
    config = (place.folder / "hf/config.json").read_text()

    def folder(name, write):
        (place.folder / name).mkdir()
        (place.folder / name / "config.json").write_text(config)
        write(place.folder / name)
        return name

    hf.save_pretrained(place.folder / "whole")
    hf.save_pretrained(place.folder / "shards", max_shard_size="10KB")
    shards = len(list((place.folder / "shards").glob("*.safetensors")))
    check(f"bare: {shards} shards", 0.0 if shards > 2 else 1.0, 0.0)
    rounded = randomised(transformers_gpt2(m)).bfloat16()
    rounded.save_pretrained(place.folder / "brain")
    wrapped = {f"base_model.model.{k.replace('.h.', '.h._fsdp_wrapped_module.')}": v for k, v in hf.state_dict().items()}
    torch.save(dict(model=nano.state_dict(), model_args=args), place.folder / "args.pt")
    old = dict(model=nano.state_dict(), model_args=args, optimizer=dict(step=torch.tensor(3), moments=[torch.ones(3).half()]))
    torch.save(old, place.folder / "old.pt", _use_new_zipfile_serialization=False)
    cases = [
        ("whole", hf, "whole"),
        ("shards", hf, "shards"),
        ("brain", rounded.float(), "brain"),
        ("bin", hf, folder("bin", lambda at: torch.save(hf.state_dict(), at / "pytorch_model.bin"))),
        ("wrapped", hf, folder("wrapped", lambda at: torch.save(wrapped, at / "pytorch_model.bin"))),
        ("tied", hf, folder("tied", lambda at: save_model(hf, str(at / "model.safetensors")))),
        ("args", nano, "args.pt"),
        ("old", nano, "old.pt"),
    ]
    for name, model, weights in cases:
        text = f'[model.gpt2]\nweights = "{weights}"\n[data.tokens]\npath = "train.bin"\n'
        (place.folder / f"bare-{name}.toml").write_text(text)
        with torch.no_grad():
            reference = loss(model, place.tokens, m).item()
        check(f"bare, {name}: loss {reference:.6f}", relative(place.loss(f"bare-{name}"), reference), 1e-5)


DECODERS = {
    "llama": (LlamaConfig, dict(
        attention_bias=True, mlp_bias=True, rms_norm_eps=1e-5,
        rope_parameters=dict(
            rope_type="llama3", rope_theta=1000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=16,
        ),
    )),
    "smollm": (LlamaConfig, dict(tie_word_embeddings=True, rope_parameters=dict(rope_type="default", rope_theta=1e5))),
    "mistral": (MistralConfig, dict(sliding_window=12, head_dim=8, hidden_act="gelu")),
    "qwen2": (Qwen2Config, dict(tie_word_embeddings=True, rms_norm_eps=1e-6)),
    "qwen3": (Qwen3Config, dict(head_dim=8)),
    "olmo2": (Olmo2Config, dict(num_key_value_heads=4)),
}


def decoders(place):
    """Today's decoders, from the folders that transformers writes; nothing is configured but the folder and the window."""
    m = place.m
    for name, (family, more) in DECODERS.items():
        torch.manual_seed(13)
        sizes = dict(
            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, hidden_size=16, intermediate_size=24,
            vocab_size=m["vocabulary"], max_position_embeddings=64, attn_implementation="eager",
        )
        model = randomised(AutoModelForCausalLM.from_config(family(**{**sizes, **more})).eval())
        shards = dict(max_shard_size="4KB") if name == "llama" else {}
        model.save_pretrained(place.folder / name, **shards)
        text = f'[model.decoder]\nweights = "{name}"\ncontext = {m["context"]}\n[data.tokens]\npath = "train.bin"\n'
        (place.folder / f"{name}.toml").write_text(text)
        with torch.no_grad():
            reference = loss(model, place.tokens, m).item()
        check(f"{name}: loss {reference:.6f}", relative(place.loss(name), reference), 1e-5)
        blocks = ["full", "model.layers.0.self_attn.k_proj.weight", "model.layers.1.mlp.gate_proj.weight"]
        hessian_products(place, name, model.double(), blocks)


def hessian_products(place, name, model, blocks):
    """H v of whole parameters, or of `full`, against double backward."""
    named = dict(model.named_parameters())
    vector = {key: torch.randn(p.shape) for key, p in named.items()}
    save_file(vector, place.folder / "v.safetensors")
    parameters = list(named.values())
    gradient = dict(zip(named, torch.autograd.grad(loss(model, place.tokens, place.m), parameters, create_graph=True)))
    for block in blocks:
        place.hesspec("hvp", f"{name}.toml", "--vectors", "v.safetensors", "--out", "hv.safetensors", "--block", block)
        found, active = load_file(place.folder / "hv.safetensors"), list(named) if block == "full" else [block]
        slope = sum((gradient[key] * vector[key].double()).sum() for key in active)
        expected = dict(zip(active, torch.autograd.grad(slope, [named[key] for key in active], retain_graph=True)))
        difference = sum(float(((found[key].double() - expected[key]) ** 2).sum()) for key in active)
        norm = sum(float((value**2).sum()) for value in expected.values())
        check(f"{name}: H v of {block}, norm {norm ** 0.5:.3g}", (difference / norm) ** 0.5, 1e-4)


class Perceptron(nn.Module):
    """The paper's Table 3: every layer's output times c."""

    def __init__(self, sizes, c):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))
        self.c = c

    def forward(self, x):
        for at, layer in enumerate(self.layers):
            x = self.c * layer(x)
            x = x if at + 1 == len(self.layers) else F.relu(x)
        return x


def perceptron(place, c):
    """Loss, and H v in f32 against double backward in f64."""
    sizes, images = [784, 300, 128, 64, 10], 64
    rng = np.random.default_rng(3)
    pixels, labels = rng.integers(0, 256, (images, 28, 28), np.uint8), rng.integers(0, 10, images, np.uint8)
    idx = lambda array: bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
    (place.folder / "images.idx").write_bytes(idx(pixels))
    (place.folder / "labels.idx").write_bytes(idx(labels))
    torch.manual_seed(2)
    model = Perceptron(sizes, c)
    torch.save(model.state_dict(), place.folder / "mlp.pt")
    (place.folder / "mlp.toml").write_text(
        f'[model.mlp]\nscale = {c}\nweights = "mlp.pt"\n[data.images]\npath = "images.idx"\nlabels = "labels.idx"\n'
        "mean = 0.5\nstd = 0.25\n"
    )
    model = model.double()
    named = dict(model.named_parameters())
    vector = {name: torch.randn(p.shape) for name, p in named.items()}
    save_file(vector, place.folder / "v.safetensors")
    x = (torch.tensor(pixels, dtype=torch.float64).flatten(1) / 255 - 0.5) / 0.25
    value = F.cross_entropy(model(x), torch.tensor(labels.astype(np.int64)))
    check(f"mlp, c = {c}: loss {value.item():.6f}", relative(place.loss("mlp"), value.item()), 1e-5)
    gradient = dict(zip(named, torch.autograd.grad(value, list(named.values()), create_graph=True)))
    for block in ["full", "layers.0.weight", "layers.2.weight", "layers.3.bias"]:
        place.hesspec("hvp", "mlp.toml", "--vectors", "v.safetensors", "--out", "hv.safetensors", "--block", block)
        found = load_file(place.folder / "hv.safetensors")
        active = list(named) if block == "full" else [block]
        slope = sum((gradient[n] * vector[n].double()).sum() for n in active)
        expected = torch.autograd.grad(slope, [named[n] for n in active], retain_graph=True)
        difference = sum(float(((found[n].double() - e) ** 2).sum()) for n, e in zip(active, expected))
        norm = sum(float((e**2).sum()) for e in expected)
        check(f"mlp, c = {c}: H v of {block}, norm {norm ** 0.5:.3g}", (difference / norm) ** 0.5, 1e-5)


def products(place):
    """H v in f32 against double backward in f64."""
    torch.manual_seed(11)
    model = transformers_gpt2(place.m)
    model.save_pretrained(place.folder / "large")
    place.configure("large", weights="large/model.safetensors", bias=True, gelu="tanh")
    model = model.double()
    named = dict(model.named_parameters())
    vector = {name: torch.randn(p.shape) for name, p in named.items()}
    save_file(vector, place.folder / "v.safetensors")
    width = place.m["embedding"]
    blocks = [
        ("transformer.h.0.attn.q.weight", "transformer.h.0.attn.c_attn.weight", slice(0, width)),
        ("transformer.h.6.mlp.c_fc.weight", "transformer.h.6.mlp.c_fc.weight", slice(None)),
        ("transformer.h.11.attn.c_proj.weight", "transformer.h.11.attn.c_proj.weight", slice(None)),
        ("full", None, None),
    ]
    value = loss(model, place.tokens, place.m)
    check("124M: loss", relative(place.loss("large"), value.item()), 1e-5)
    parameters = list(named.values())
    gradient = dict(zip(named, torch.autograd.grad(value, parameters, create_graph=True)))
    for block, name, columns in blocks:
        place.hesspec("hvp", "large.toml", "--vectors", "v.safetensors", "--out", "hv.safetensors", "--block", block)
        found = load_file(place.folder / "hv.safetensors")
        active = list(named) if name is None else [name]
        cut = (lambda x: x) if name is None else (lambda x: x[..., columns])
        slope = sum((cut(gradient[n]) * cut(vector[n].double())).sum() for n in active)
        expected = dict(zip(active, torch.autograd.grad(slope, [named[n] for n in active], retain_graph=True)))
        difference = norm = 0.0
        for n in active:
            a, b = cut(found[n].double()), cut(expected[n])
            difference += float(((a - b) ** 2).sum())
            norm += float((b**2).sum())
        check(f"124M: H v of {block}, norm {norm ** 0.5:.3g}", (difference / norm) ** 0.5, 1e-4)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=pathlib.Path, required=True)
    parser.add_argument("--hesspec", required=True)
    parser.add_argument("--large", action="store_true", help="H v of the 124M model as well")
    options = parser.parse_args()
    program = str(pathlib.Path(options.hesspec).resolve())
    small = Place(options.dir / "small", program, SMALL, WINDOWS)
    losses(small)
    bare(small)
    decoders(small)
    perceptron(small, 1.0)
    perceptron(small, 3.0)
    if options.large:
        products(Place(options.dir / "large", program, GPT2, 1))
    print(f"{checks} checks, {failures} failed")
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
