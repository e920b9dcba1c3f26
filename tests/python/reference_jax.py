#!/usr/bin/env python3
"""Dense Hessians of small networks (GPT-2, decoders, BERT, perceptrons, vision transformers) in JAX f64: an implementation that shares nothing with hesspec.

    reference_jax.py make    --dir D --case NAME [--seed N]     model.safetensors, train.bin, config.toml
    reference_jax.py hessian --dir D                            dense.npz: H, G (Gauss-Newton), gradient, loss
    reference_jax.py check   --dir D --hesspec PATH             drives `hesspec hvp` and `hesspec lanczos`; exit 1 on failure
    reference_jax.py self    --dir D                            this file against finite differences
    reference_jax.py all     --dir D --hesspec PATH             make, self and check for every case

Needs: pip install jax numpy safetensors. The commands and names are those of CONTRACT (README of hesspec).
"""

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tomllib

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.dataset
from safetensors.numpy import load_file, save_file

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_platforms", "cpu")

C2 = dict(heads=2, embedding=4, mlp=4, context=2, vocabulary=5, bias=False, tied=True, layer_norm=False, gelu="erf")
FULL = dict(layers=2, heads=2, embedding=4, mlp=6, context=5, vocabulary=7, bias=True, tied=True, layer_norm=True, gelu="erf")

MLP = dict(sizes=[6, 7, 5, 4], scale=1.0, activation="relu", bias=True)

LLAMA = dict(layers=2, heads=4, kv_heads=2, head=4, embedding=6, mlp=5, context=4, vocabulary=7, tied=True, norm="before",
             norm_epsilon=1e-5, qk_norm="none", attention_bias="none", mlp_bias=False, activation="silu",
             rope=dict(theta=50.0, share=1.0))
STRETCHED = dict(theta=50.0, share=0.5, scaling=dict(factor=8.0, low=1.0, high=4.0, original=16.0))

VIT = dict(image=[4, 6], patch=2, channels=1, embedding=6, layers=2, heads=2, mlp=5, classes=3)

BERT = dict(layers=2, heads=2, embedding=6, mlp=5, context=7, positions=8, vocabulary=11, types=2, gelu="erf", loss="mlm+nsp",
            norm_epsilon=1e-12)

# name: (model, samples). `c2_*` are the paper's Appendix C.2; `full_*` have everything.
CASES = {
    "c2_1": (dict(C2, layers=1), 7),
    "c2_2": (dict(C2, layers=2), 7),
    "c2_3": (dict(C2, layers=3), 7),
    "c2_4": (dict(C2, layers=4), 7),
    "full_erf_tied": (FULL, 5),
    "full_tanh_tied": (dict(FULL, gelu="tanh"), 5),
    "full_erf_untied": (dict(FULL, tied=False), 5),
    "full_tanh_untied_no_bias": (dict(FULL, gelu="tanh", tied=False, bias=False), 5),
    "llama": (LLAMA, 5),
    "llama_stretched_biases_untied": (dict(LLAMA, layers=1, rope=STRETCHED, attention_bias="all", mlp_bias=True, tied=False, kv_heads=1), 5),
    "qwen2": (dict(LLAMA, layers=1, attention_bias="qkv", activation="gelu_tanh"), 5),
    "qwen3": (dict(LLAMA, layers=1, qk_norm="head", activation="gelu", head=2), 5),
    "olmo2": (dict(LLAMA, layers=1, qk_norm="all", norm="after", kv_heads=4, tied=False), 5),
    "vit": (VIT, 5),
    "bert": (BERT, 3),
    "bert_tokens_tanh": (dict(BERT, layers=1, loss="mlm", gelu="tanh", types=3), 3),
    "mlp": (MLP, 5),
    "mlp_3": (dict(MLP, scale=3.0), 5),
    "mlp_gelu_no_bias": (dict(MLP, activation="gelu", bias=False), 5),
}

TOLERANCE = {"f64": 1e-10, "f32": 1e-5}
FLOOR = {"f64": 1e-4, "f32": 1e-3}  # see check_products
MICRO_BATCH = 2  # windows; divides none of the batches, so that the weighting by tokens is seen


# ---- the model ---------------------------------------------------------------------------------------------------

def shapes(m):
    """(name, shape) in network order."""
    if "sizes" in m:
        for at, (fan_in, fan_out) in enumerate(itertools.pairwise(m["sizes"])):
            yield f"layers.{at}.weight", (fan_out, fan_in)
            if m["bias"]:
                yield f"layers.{at}.bias", (fan_out,)
        return
    if "kv_heads" in m:
        yield from decoder_shapes(m)
        return
    if "patch" in m:
        yield from vit_shapes(m)
        return
    if "types" in m:
        yield from bert_shapes(m)
        return
    e, v = m["embedding"], m["vocabulary"]
    bias, norm = m["bias"], m["layer_norm"]

    def module(name, weight):
        yield f"{name}.weight", weight
        if bias:
            yield f"{name}.bias", weight[-1:]

    yield "transformer.wte.weight", (v, e)
    yield "transformer.wpe.weight", (m["context"], e)
    for i in range(m["layers"]):
        h = f"transformer.h.{i}"
        if norm:
            yield from module(f"{h}.ln_1", (e,))
        yield from module(f"{h}.attn.c_attn", (e, 3 * e))
        yield from module(f"{h}.attn.c_proj", (e, e))
        if norm:
            yield from module(f"{h}.ln_2", (e,))
        yield from module(f"{h}.mlp.c_fc", (e, m["mlp"]))
        yield from module(f"{h}.mlp.c_proj", (m["mlp"], e))
    if norm:
        yield from module("transformer.ln_f", (e,))
    if not m["tied"]:
        yield "lm_head.weight", (v, e)


def decoder_shapes(m):
    e, v, q, kv = m["embedding"], m["vocabulary"], m["heads"] * m["head"], m["kv_heads"] * m["head"]

    def matrix(name, shape, bias):
        yield f"{name}.weight", shape
        if bias:
            yield f"{name}.bias", shape[:1]

    yield "model.embed_tokens.weight", (v, e)
    for i in range(m["layers"]):
        layer = f"model.layers.{i}"
        if m["norm"] == "before":
            yield f"{layer}.input_layernorm.weight", (e,)
        for part, shape in [("q", (q, e)), ("k", (kv, e)), ("v", (kv, e))]:
            yield from matrix(f"{layer}.self_attn.{part}_proj", shape, m["attention_bias"] != "none")
        yield from matrix(f"{layer}.self_attn.o_proj", (e, q), m["attention_bias"] == "all")
        if m["qk_norm"] != "none":
            for part, width in [("q", q), ("k", kv)]:
                yield f"{layer}.self_attn.{part}_norm.weight", (m["head"] if m["qk_norm"] == "head" else width,)
        yield f"{layer}.post_attention_layernorm.weight", (e,)
        for part, shape in [("gate", (m["mlp"], e)), ("up", (m["mlp"], e)), ("down", (e, m["mlp"]))]:
            yield from matrix(f"{layer}.mlp.{part}_proj", shape, m["mlp_bias"])
        if m["norm"] == "after":
            yield f"{layer}.post_feedforward_layernorm.weight", (e,)
    yield "model.norm.weight", (e,)
    if not m["tied"]:
        yield "lm_head.weight", (v, e)


def vit_shapes(m):
    e, c, side = m["embedding"], m["channels"], m["patch"]
    tokens = 1 + m["image"][0] // side * (m["image"][1] // side)

    def module(name, *weight):
        yield f"{name}.weight", weight
        yield f"{name}.bias", weight[:1]

    yield "cls_token", (1, 1, e)
    yield "pos_embed", (1, tokens, e)
    yield from module("patch_embed.proj", e, c, side, side)
    for i in range(m["layers"]):
        h = f"blocks.{i}"
        yield from module(f"{h}.norm1", e)
        yield from module(f"{h}.attn.qkv", 3 * e, e)
        yield from module(f"{h}.attn.proj", e, e)
        yield from module(f"{h}.norm2", e)
        yield from module(f"{h}.mlp.fc1", m["mlp"], e)
        yield from module(f"{h}.mlp.fc2", e, m["mlp"])
    yield from module("norm", e)
    yield from module("head", m["classes"], e)


def bert_shapes(m):
    e, next_sentence = m["embedding"], "nsp" in m["loss"]

    def module(name, *weight):
        yield f"{name}.weight", weight
        yield f"{name}.bias", weight[:1]

    for table, rows in [("word", m["vocabulary"]), ("position", m["positions"]), ("token_type", m["types"])]:
        yield f"bert.embeddings.{table}_embeddings.weight", (rows, e)
    yield from module("bert.embeddings.LayerNorm", e)
    for i in range(m["layers"]):
        h = f"bert.encoder.layer.{i}"
        for part in ["self.query", "self.key", "self.value", "output.dense"]:
            yield from module(f"{h}.attention.{part}", e, e)
        yield from module(f"{h}.attention.output.LayerNorm", e)
        yield from module(f"{h}.intermediate.dense", m["mlp"], e)
        yield from module(f"{h}.output.dense", e, m["mlp"])
        yield from module(f"{h}.output.LayerNorm", e)
    if next_sentence:
        yield from module("bert.pooler.dense", e, e)
    yield from module("cls.predictions.transform.dense", e, e)
    yield from module("cls.predictions.transform.LayerNorm", e)
    yield "cls.predictions.bias", (m["vocabulary"],)
    if next_sentence:
        yield from module("cls.seq_relationship", 2, e)


def bert_logits(m, p, pairs):
    """Pairs one by one, so that there is no padding, to logits of all predicted tokens and of all next sentences."""
    heads, width = m["heads"], m["embedding"] // m["heads"]
    gelu = lambda x: jax.nn.gelu(x, approximate=m["gelu"] == "tanh")

    def affine(name, x):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(name, x):
        centred = x - x.mean(-1, keepdims=True)
        return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + m["norm_epsilon"]) * p[f"{name}.weight"] + p[f"{name}.bias"]

    tokens, sentences = [], []
    for pair in pairs:
        ids = jnp.asarray(pair["input_ids"])
        of = lambda table, rows: p[f"bert.embeddings.{table}_embeddings.weight"][rows]
        x = of("word", ids) + of("token_type", jnp.asarray(pair["token_type_ids"])) + of("position", jnp.arange(len(ids)))
        x = norm("bert.embeddings.LayerNorm", x)
        for i in range(m["layers"]):
            h = f"bert.encoder.layer.{i}"
            q, k, v = (affine(f"{h}.attention.self.{part}", x).reshape(-1, heads, width) for part in ("query", "key", "value"))
            weights = jax.nn.softmax(jnp.einsum("ihw,jhw->hij", q, k) / jnp.sqrt(float(width)), axis=-1)
            seen = affine(f"{h}.attention.output.dense", jnp.einsum("hij,jhw->ihw", weights, v).reshape(x.shape))
            x = norm(f"{h}.attention.output.LayerNorm", x + seen)
            hidden = gelu(affine(f"{h}.intermediate.dense", x))
            x = norm(f"{h}.output.LayerNorm", x + affine(f"{h}.output.dense", hidden))
        predicted = x[np.flatnonzero(np.array(pair["labels"]) >= 0)]
        predicted = norm("cls.predictions.transform.LayerNorm", gelu(affine("cls.predictions.transform.dense", predicted)))
        tokens.append(predicted @ p["bert.embeddings.word_embeddings.weight"].T + p["cls.predictions.bias"])
        if "nsp" in m["loss"]:
            sentences.append(affine("cls.seq_relationship", jnp.tanh(affine("bert.pooler.dense", x[0]))))
    return [jnp.concatenate(tokens)] + ([jnp.stack(sentences)] if sentences else [])


def vit_logits(m, p, images):
    """images (n, channels, height, width) to logits (n, classes), as timm has it: a convolution, a class token, pre-norm layers."""
    heads, width = m["heads"], m["embedding"] // m["heads"]

    def affine(name, x):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(name, x):
        centred = x - x.mean(-1, keepdims=True)
        return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * p[f"{name}.weight"] + p[f"{name}.bias"]

    side = (m["patch"],) * 2
    x = jax.lax.conv_general_dilated(images, p["patch_embed.proj.weight"], side, "VALID", dimension_numbers=("NCHW", "OIHW", "NCHW"))
    x = (x + p["patch_embed.proj.bias"][:, None, None]).reshape(len(images), m["embedding"], -1).transpose(0, 2, 1)
    token = jnp.broadcast_to(p["cls_token"], (len(images), 1, m["embedding"]))
    x = jnp.concatenate([token, x], 1) + p["pos_embed"]
    for i in range(m["layers"]):
        h = f"blocks.{i}"
        qkv = affine(f"{h}.attn.qkv", norm(f"{h}.norm1", x))
        q, k, v = (part.reshape(*part.shape[:2], heads, width) for part in jnp.split(qkv, 3, -1))
        weights = jax.nn.softmax(jnp.einsum("nihw,njhw->nhij", q, k) / jnp.sqrt(float(width)), axis=-1)
        x = x + affine(f"{h}.attn.proj", jnp.einsum("nhij,njhw->nihw", weights, v).reshape(x.shape))
        hidden = affine(f"{h}.mlp.fc1", norm(f"{h}.norm2", x))
        x = x + affine(f"{h}.mlp.fc2", jax.nn.gelu(hidden, approximate=False))
    return affine("head", norm("norm", x)[:, 0])


def frequencies(rotary, width):
    """Angle a position for each pair of channels, Llama 3.1's scaling by wavelengths as its code has it."""
    n = int(width * rotary["share"]) // 2
    f = rotary["theta"] ** -(np.arange(n) / n)
    scaling = rotary.get("scaling")
    if scaling:
        wavelength = 2 * np.pi / f
        smooth = (scaling["original"] / wavelength - scaling["low"]) / (scaling["high"] - scaling["low"])
        between = (1 - smooth) * f / scaling["factor"] + smooth * f
        f = np.where(wavelength > scaling["original"] / scaling["low"], f / scaling["factor"],
                     np.where(wavelength < scaling["original"] / scaling["high"], f, between))
    return f


def decoder_logits(m, p, tokens):
    """tokens (batch, time) to logits (batch * time, vocabulary): Llama, Qwen and OLMo as their papers have them."""
    batch, time = tokens.shape
    width = m["head"]
    angles = np.arange(time)[:, None] * frequencies(m["rope"], width)  # (time, pairs)
    turn = jnp.asarray(np.exp(1j * angles))

    def affine(name, x):
        y = x @ p[f"{name}.weight"].T
        return y + p[f"{name}.bias"] if f"{name}.bias" in p else y

    def norm(name, x):
        return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + m["norm_epsilon"]) * p[f"{name}.weight"]

    def rotated(x):  # (batch, time, heads, width): pairs as complex numbers
        n = angles.shape[1]
        z = (x[..., :n] + 1j * x[..., n:2 * n]) * turn[:, None, :]
        return jnp.concatenate([z.real, z.imag, x[..., 2 * n:]], -1)

    def attention(name, x):
        def heads(part):
            y = affine(f"{name}.{part}_proj", x)
            if part != "v" and m["qk_norm"] == "all":
                y = norm(f"{name}.{part}_norm", y)
            y = y.reshape(batch, time, -1, width)
            if part != "v" and m["qk_norm"] == "head":
                y = norm(f"{name}.{part}_norm", y)
            return y

        q, k, v = rotated(heads("q")), rotated(heads("k")), heads("v")
        q = q.reshape(batch, time, m["kv_heads"], -1, width)  # queries that share a key side by side
        scores = jnp.einsum("bigrw,bjgw->bgrij", q, k) / jnp.sqrt(float(width))
        scores = jnp.where(jnp.tril(jnp.ones((time, time), bool)), scores, -jnp.inf)
        y = jnp.einsum("bgrij,bjgw->bigrw", jax.nn.softmax(scores, axis=-1), v)
        return affine(f"{name}.o_proj", y.reshape(batch, time, -1))

    gates = dict(silu=jax.nn.silu, gelu=lambda x: jax.nn.gelu(x, approximate=False), gelu_tanh=jax.nn.gelu)

    def mlp(name, x):
        return affine(f"{name}.down_proj", gates[m["activation"]](affine(f"{name}.gate_proj", x)) * affine(f"{name}.up_proj", x))

    x = p["model.embed_tokens.weight"][tokens]
    for i in range(m["layers"]):
        h = f"model.layers.{i}"
        if m["norm"] == "before":
            x = x + attention(f"{h}.self_attn", norm(f"{h}.input_layernorm", x))
            x = x + mlp(f"{h}.mlp", norm(f"{h}.post_attention_layernorm", x))
        else:
            x = x + norm(f"{h}.post_attention_layernorm", attention(f"{h}.self_attn", x))
            x = x + norm(f"{h}.post_feedforward_layernorm", mlp(f"{h}.mlp", x))
    x = norm("model.norm", x)
    head = p["model.embed_tokens.weight"] if m["tied"] else p["lm_head.weight"]
    return (x @ head.T).reshape(batch * time, -1)


def mlp_logits(m, p, images):
    """images (n, pixels) to logits (n, classes); every layer's output times c."""
    activation = dict(relu=jax.nn.relu, tanh=jnp.tanh, gelu=lambda x: jax.nn.gelu(x, approximate=False))[m["activation"]]
    last = len(m["sizes"]) - 2
    x = images
    for at in range(last + 1):
        x = x @ p[f"layers.{at}.weight"].T
        if m["bias"]:
            x = x + p[f"layers.{at}.bias"]
        x = m["scale"] * x
        x = x if at == last else activation(x)
    return x


def logits(m, p, tokens):
    """tokens (batch, time) to logits (batch * time, vocabulary)."""
    batch, time = tokens.shape
    heads = m["heads"]
    width = m["embedding"] // heads

    def affine(name, x):
        y = x @ p[f"{name}.weight"]
        return y + p[f"{name}.bias"] if m["bias"] else y

    def norm(name, x):
        if not m["layer_norm"]:
            return x
        centred = x - x.mean(-1, keepdims=True)
        y = centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * p[f"{name}.weight"]
        return y + p[f"{name}.bias"] if m["bias"] else y

    def gelu(x):
        if m["gelu"] == "erf":
            return 0.5 * x * (1.0 + jax.scipy.special.erf(x / jnp.sqrt(2.0)))
        return 0.5 * x * (1.0 + jnp.tanh(jnp.sqrt(2.0 / jnp.pi) * (x + 0.044715 * x**3)))

    def attention(name, x):
        split = lambda y: y.reshape(batch, time, heads, width).transpose(0, 2, 1, 3)
        q, k, v = map(split, jnp.split(affine(f"{name}.c_attn", x), 3, axis=-1))
        scores = q @ k.transpose(0, 1, 3, 2) / jnp.sqrt(float(width))  # (batch, heads, time, time)
        scores = jnp.where(jnp.tril(jnp.ones((time, time), bool)), scores, -jnp.inf)
        y = jax.nn.softmax(scores, axis=-1) @ v
        return affine(f"{name}.c_proj", y.transpose(0, 2, 1, 3).reshape(batch, time, -1))

    x = p["transformer.wte.weight"][tokens] + p["transformer.wpe.weight"][:time]
    for i in range(m["layers"]):
        h = f"transformer.h.{i}"
        x = x + attention(f"{h}.attn", norm(f"{h}.ln_1", x))
        x = x + affine(f"{h}.mlp.c_proj", gelu(affine(f"{h}.mlp.c_fc", norm(f"{h}.ln_2", x))))
    x = norm("transformer.ln_f", x)
    head = p["transformer.wte.weight"] if m["tied"] else p["lm_head.weight"]
    return (x @ head.T).reshape(batch * time, -1)


def cross_entropy(outputs, targets):
    """Mean over all predictions of a kind, summed over the kinds."""
    logarithms = [jax.nn.log_softmax(z, -1) for z in outputs]
    return sum(-jnp.take_along_axis(z, t.reshape(-1, 1), axis=-1).mean() for z, t in zip(logarithms, targets, strict=True))


class Problem:
    """A case read back from its folder: parameters as one flat vector."""

    def __init__(self, folder):
        with open(os.path.join(folder, "config.toml"), "rb") as file:
            config = tomllib.load(file)
        ((self.kind, self.m),) = config["model"].items()
        weights = load_file(os.path.join(folder, "model.safetensors"))
        self.layout, offset = {}, 0  # name: (offset, shape)
        for name, shape in shapes(self.m):
            assert weights[name].shape == tuple(shape), (name, weights[name].shape, shape)
            self.layout[name] = (offset, tuple(shape))
            offset += int(np.prod(shape))
        assert set(weights) == set(self.layout)
        self.dim = offset
        self.theta = np.concatenate([weights[name].astype(np.float64).ravel() for name in self.layout])
        if "images" in config["data"]:
            data, samples = config["data"]["images"], config["batch"]["samples"]
            pixels = read_idx(os.path.join(folder, data["path"]))[:samples]
            pixels = pixels[:, None] if self.kind == "vit" else pixels.reshape(samples, -1)
            self.inputs = (pixels / 255.0 - data["mean"]) / data["std"]
            self.targets = [read_idx(os.path.join(folder, data["labels"]))[:samples].astype(np.int32)]
            return
        if "pairs" in config["data"]:
            with open(os.path.join(folder, config["data"]["pairs"]["path"])) as file:
                self.inputs = [json.loads(line) for line in file][:config["batch"]["samples"]]
            labels = np.concatenate([pair["labels"] for pair in self.inputs])
            sentences = [np.array([pair["next_sentence_label"] for pair in self.inputs])] if "nsp" in self.m["loss"] else []
            self.targets = [labels[labels >= 0], *sentences]
            return
        ids = np.fromfile(os.path.join(folder, config["data"]["tokens"]["path"]), "<u2").astype(np.int32)
        context, windows = self.m["context"], config["batch"]["tokens"] // self.m["context"]
        self.inputs = np.stack([ids[i * context:(i + 1) * context] for i in range(windows)])
        self.targets = [np.stack([ids[i * context + 1:(i + 1) * context + 1] for i in range(windows)])]

    def parameters(self, theta):
        return {n: theta[o:o + int(np.prod(s))].reshape(s) for n, (o, s) in self.layout.items()}

    def outputs(self, theta):
        """Logits of every kind of prediction, (predictions, classes): one, but for BERT."""
        of_kind = dict(mlp=mlp_logits, vit=vit_logits, decoder=decoder_logits, gpt2=logits, bert=bert_logits)[self.kind]
        found = of_kind(self.m, self.parameters(theta), self.inputs)
        return found if self.kind == "bert" else [found]

    def loss(self, theta):
        return cross_entropy(self.outputs(theta), self.targets)

    def columns(self, hvp):
        """Dense symmetric matrix from its products with all unit vectors, a few at a time."""
        product = jax.jit(jax.vmap(hvp))
        eye = np.eye(self.dim)
        return np.concatenate([np.asarray(product(eye[i:i + 64])) for i in range(0, self.dim, 64)])

    def dense(self):
        theta = jnp.asarray(self.theta)
        gradient = jax.grad(self.loss)
        z, pull = jax.vjp(self.outputs, theta)
        gradient_out = jax.grad(lambda z: cross_entropy(z, self.targets))

        def hessian(v):
            return jax.jvp(gradient, (theta,), (v,))[1]

        def gauss_newton(v):  # Jt H_out J v
            jv = jax.jvp(self.outputs, (theta,), (v,))[1]
            return pull(jax.jvp(gradient_out, (z,), (jv,))[1])[0]

        return dict(
            H=self.columns(hessian),
            G=self.columns(gauss_newton),
            gradient=np.asarray(gradient(theta)),
            loss=float(self.loss(theta)),
        )

    def blocks(self):
        """Blocks of the partition `parameter`: name to indices into the flat vector."""
        found = {}
        for name, (offset, shape) in self.layout.items():
            index = offset + np.arange(int(np.prod(shape))).reshape(shape)
            fused = re.fullmatch(r"(.*)\.(?:c_attn|qkv)\.(weight|bias)", name)
            if fused:
                for letter, part in zip("qkv", np.split(index, 3, axis=0 if ".qkv." in name else -1)):
                    found[f"{fused[1]}.{letter}.{fused[2]}"] = part.ravel()
            else:
                found[name] = index.ravel()
        return found


# ---- files -------------------------------------------------------------------------------------------------------

def write_idx(path, array):
    """MNIST's format: magic, sizes, bytes."""
    with open(path, "wb") as file:
        file.write(bytes([0, 0, 8, array.ndim]))
        file.write(np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes())


def read_idx(path):
    with open(path, "rb") as file:
        axes = file.read(4)[3]
        return np.frombuffer(file.read()[4 * axes:], np.uint8).reshape(np.fromfile(path, ">u4", axes, offset=4))


def value(x):
    """As TOML: bool, int, str and lists are written as in JSON, tables inline."""
    if isinstance(x, dict):
        return "{ " + ", ".join(f"{key} = {value(x[key])}" for key in x) + " }"
    return json.dumps(x)


def make(folder, case, seed, dtype=np.float64):
    """Random weights that are nowhere tiny, so that no term of a second derivative hides."""
    model, samples = CASES[case]
    os.makedirs(folder, exist_ok=True)
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in shapes(model):
        # Embeddings spread wide, so that LayerNorm never meets nearly equal channels: f32 has to reach 1e-5.
        is_embedding = any(part in name for part in (".wte.", ".wpe.", ".embed_tokens.", "_embeddings.", "cls_token", "pos_embed"))
        entries = rng.normal(0.0, 1.0 if is_embedding else 0.4, shape)
        if (".ln_" in name or "norm" in name.lower()) and name.endswith(".weight"):
            entries = 1.0 + 0.3 * rng.normal(size=shape)
        weights[name] = entries.astype(np.float32).astype(dtype)  # the same network in either precision
    save_file(weights, os.path.join(folder, "model.safetensors"))
    kind = next(kind for kind, key in dict(mlp="sizes", decoder="kv_heads", vit="patch", bert="types", gpt2="gelu").items() if key in model)
    lines = ["[run]", f"name = {value(case)}", f"seed = {seed}", "", f"[model.{kind}]"]
    lines += [f"{key} = {value(model[key])}" for key in model]
    lines += ['weights = "model.safetensors"', ""]
    make_data = dict(mlp=make_images, vit=make_images, bert=make_pairs).get(kind, make_tokens)
    lines += make_data(folder, model, samples, rng)
    lines += [f"micro_batch = {MICRO_BATCH}", "", "[hessian]", 'precision = "f64"', "", "[output]", 'url = "results"', ""]
    with open(os.path.join(folder, "config.toml"), "w") as file:
        file.write("\n".join(lines))


def make_images(folder, model, samples, rng):
    size = model.get("image") or [2, model["sizes"][0] // 2]
    classes = model.get("classes") or model["sizes"][-1]
    write_idx(os.path.join(folder, "images.idx"), rng.integers(0, 256, (samples + 3, *size)))
    write_idx(os.path.join(folder, "labels.idx"), rng.integers(0, classes, samples + 3))
    data = ['path = "images.idx"', 'labels = "labels.idx"', "mean = 0.5", "std = 0.25", ""]
    return ["[data.images]", *data, "[batch]", f"samples = {samples}"]


def make_tokens(folder, model, windows, rng):
    tokens = windows * model["context"]
    # The file is longer than the batch: what lies behind must not matter.
    rng.integers(0, model["vocabulary"], tokens + 1 + 7).astype("<u2").tofile(os.path.join(folder, "train.bin"))
    return ["[data.tokens]", 'path = "train.bin"', "", "[batch]", f"tokens = {tokens}"]


def make_pairs(folder, model, samples, rng):
    """Pairs of all lengths, with one or more predicted tokens each."""
    with open(os.path.join(folder, "pairs.jsonl"), "w") as file:
        for pair in range(samples + 3):
            length = 3 + pair * 3 % (model["context"] - 2)
            ids, types = rng.integers(0, model["vocabulary"], length), rng.integers(0, model["types"], length)
            labels = np.where(rng.random(length) < 0.4, rng.integers(0, model["vocabulary"], length), -100)
            labels[pair % length] = rng.integers(0, model["vocabulary"])
            file.write(json.dumps(dict(input_ids=ids.tolist(), token_type_ids=types.tolist(), labels=labels.tolist(),
                                       next_sentence_label=pair % 2)) + "\n")
    return ["[data.pairs]", 'path = "pairs.jsonl"', "", "[batch]", f"samples = {samples}"]


def dense(folder):
    """The dense truth, computed once per folder."""
    path = os.path.join(folder, "dense.npz")
    inputs = [os.path.join(folder, name) for name in os.listdir(folder) if name.endswith((".bin", ".idx", ".jsonl", ".toml"))]
    inputs.append(os.path.join(folder, "model.safetensors"))
    if not os.path.exists(path) or any(os.path.getmtime(name) > os.path.getmtime(path) for name in inputs):
        np.savez(path, **Problem(folder).dense())
    return dict(np.load(path))


# ---- this file against finite differences ------------------------------------------------------------------------

def relative(a, b):
    return float(np.linalg.norm(np.asarray(a) - b) / max(np.linalg.norm(b), 1e-300))


def self_test(folder):
    """Gradient against differences of the loss, Hessian against differences of the gradient,
    Gauss-Newton against an explicit Jacobian. Fourth-order differences: relative error about h^4 (times a fifth
    derivative, large where LayerNorm meets nearly equal channels) + 1e-16/h."""
    problem, truth = Problem(folder), dense(folder)
    theta, h = problem.theta, 3e-4
    rng = np.random.default_rng(0)
    loss, gradient = jax.jit(problem.loss), jax.jit(jax.grad(problem.loss))

    def slope(f, v):
        near = f(theta + h * v) - f(theta - h * v)
        far = f(theta + 2 * h * v) - f(theta - 2 * h * v)
        return np.asarray((8 * near - far) / (12 * h))

    rows = []
    for _ in range(3):
        v = rng.normal(size=problem.dim)
        v /= np.linalg.norm(v)
        rows.append(("gradient", relative(slope(loss, v), truth["gradient"] @ v), 1e-7))
        rows.append(("H v", relative(slope(gradient, v), truth["H"] @ v), 1e-7))
    g = 0.0
    for jacobian, z in zip(jax.jacrev(problem.outputs)(jnp.asarray(theta)), problem.outputs(theta), strict=True):
        jacobian, p = np.asarray(jacobian), np.asarray(jax.nn.softmax(z, -1))  # (predictions, classes, dim)
        mean = np.einsum("nc,ncd->nd", p, jacobian)
        g = g + (np.einsum("nc,ncd,nce->de", p, jacobian, jacobian) - np.einsum("nd,ne->de", mean, mean)) / len(p)
    rows.append(("Gauss-Newton", relative(truth["G"], g), 1e-12))
    rows.append(("symmetry", relative(truth["H"], truth["H"].T), 1e-12))
    rows.append(("entries in no block or in two", float(len(set(range(problem.dim)) ^ set(np.concatenate(list(problem.blocks().values())))) + sum(map(len, problem.blocks().values())) - problem.dim), 0.0))
    return table(folder, rows)


# ---- hesspec against the dense truth -----------------------------------------------------------------------------

class Hesspec:
    """The command line, as the contract writes it."""

    def __init__(self, program, folder, precision):
        self.program, self.folder, self.precision = os.path.abspath(program), folder, precision
        self.problem = Problem(folder)
        self.dtype = np.float64 if precision == "f64" else np.float32

    def call(self, *arguments):
        command = [self.program, *arguments, "--set", f'hessian.precision="{self.precision}"']
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"exit {done.returncode}: {' '.join(command)}\n{done.stderr}")
        return done.stdout

    def save_vectors(self, path, vectors):
        """Each flat vector `i` as tensors `name@i`; parameters that are zero in it are left out."""
        tensors = {}
        for i, vector in enumerate(vectors):
            for name, value in self.problem.parameters(vector).items():
                if np.any(value):
                    tensors[f"{name}@{i}"] = np.ascontiguousarray(value, dtype=self.dtype)
        save_file(tensors, os.path.join(self.folder, path))

    def load_vectors(self, path, count):
        tensors = load_file(os.path.join(self.folder, path))
        out = np.zeros((count, self.problem.dim))
        for key, value in tensors.items():
            name, _, index = key.partition("@")
            offset, shape = self.problem.layout[name]
            assert value.shape == shape and value.dtype == self.dtype, (key, value.shape, value.dtype)
            out[int(index), offset:offset + value.size] = value.ravel()
        return out

    def products(self, vectors, block, gauss_newton=False):
        self.save_vectors("v.safetensors", vectors)
        extra = ["--gauss-newton"] if gauss_newton else []
        self.call("hvp", "config.toml", "--vectors", "v.safetensors", "--out", "hv.safetensors", "--block", block, *extra)
        return self.load_vectors("hv.safetensors", len(vectors))

    def gradient_and_loss(self):
        """Also the form without --block, for which the whole network is meant, and one vector without `@`."""
        name = list(self.problem.layout)[1]
        offset, shape = self.problem.layout[name]
        one = np.zeros(self.problem.dim)
        one[offset:offset + int(np.prod(shape))] = np.linspace(-1.0, 1.0, int(np.prod(shape)))
        plain = {name: self.problem.parameters(one)[name].astype(self.dtype)}
        save_file(plain, os.path.join(self.folder, "v.safetensors"))
        arguments = ["--vectors", "v.safetensors", "--out", "hv.safetensors", "--gradient", "g.safetensors", "--loss"]
        printed = self.call("hvp", "config.toml", *arguments)
        flat = lambda path: self.flat(load_file(os.path.join(self.folder, path)))
        return one, flat("hv.safetensors"), flat("g.safetensors"), loss_in(printed)

    def flat(self, tensors):
        out = np.zeros(self.problem.dim)
        for name, value in tensors.items():
            offset, shape = self.problem.layout[name]
            assert value.shape == shape, (name, value.shape)
            out[offset:offset + value.size] = value.ravel()
        return out

    def lanczos(self, vectors, block, steps):
        self.save_vectors("start.safetensors", vectors)
        arguments = ["--start", "start.safetensors", "--block", block, "--steps", str(steps), "--json"]
        answer = json.loads(self.call("lanczos", "config.toml", *arguments))
        return answer if isinstance(answer, list) else answer.get("vectors", answer.get("results", [answer]))


def loss_in(printed):
    """The loss in what `--loss` prints: a JSON object with `loss`, or a line with the number last."""
    try:
        return float(json.loads(printed)["loss"])
    except (ValueError, KeyError, TypeError):
        lines = [line for line in printed.splitlines() if "loss" in line.lower()] or printed.splitlines()
        return float(re.findall(r"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?", lines[-1])[-1])


def lanczos(matrix, start, steps):
    """Textbook Lanczos with full reorthogonalisation twice; beta[i] is the norm after step i."""
    basis, alpha, beta = [start / np.linalg.norm(start)], [], []
    for _ in range(steps):
        w = matrix @ basis[-1]
        alpha.append(float(basis[-1] @ w))
        for _ in range(2):
            q = np.stack(basis)
            w = w - q.T @ (q @ w)
        beta.append(float(np.linalg.norm(w)))
        basis.append(w / beta[-1])
    return np.array(alpha), np.array(beta)


def unit_vectors(dim, index):
    vectors = np.zeros((len(index), dim))
    vectors[np.arange(len(index)), index] = 1.0
    return vectors


def check_products(hesspec, truth, tolerance, per_call):
    """Every unit vector, for the whole network and for every block, Hessian and Gauss-Newton.

    Errors are relative to the block's own norm, but a block whose curvature is lost in the network's rounding
    (a key bias has none at all) is measured against FLOOR times the network's."""
    dim = hesspec.problem.dim
    cuts = {"full": np.arange(dim), **hesspec.problem.blocks()}
    for what, matrix in (("H", truth["H"]), ("G", truth["G"])):
        for block, index in cuts.items():
            found, outside = [], 0.0
            for at in range(0, len(index), per_call):
                # A vector that reaches beyond the block: it has to be cut before the product.
                vectors = unit_vectors(dim, index[at:at + per_call])
                if block != "full":
                    rest = np.setdiff1d(np.arange(dim), index)
                    vectors[:, rest[:: max(1, len(rest) // 5)]] = 0.5
                product = hesspec.products(vectors, block, what == "G")
                found.append(product[:, index])
                if block != "full":
                    outside = max(outside, float(np.abs(np.delete(product, index, axis=1)).max()))
            expected = matrix[np.ix_(index, index)]
            scale = max(np.linalg.norm(expected), FLOOR[hesspec.precision] * np.linalg.norm(matrix))
            yield f"{what} {block}", float(np.linalg.norm(np.concatenate(found) - expected) / scale), tolerance
            if block != "full":
                yield f"{what} {block}, outside", outside, 0.0


def check_scalars(hesspec, truth, tolerance):
    vector, product, gradient, loss = hesspec.gradient_and_loss()
    yield "H v without --block", relative(product, truth["H"] @ vector), tolerance
    yield "gradient", relative(gradient, truth["gradient"]), tolerance
    yield "loss", abs(loss - float(truth["loss"])) / float(truth["loss"]), tolerance


def check_dense(hesspec, truth, tolerance):
    """`hesspec dense` of the whole network, and what lies between its parameters."""
    run = f"dense-{hesspec.precision}"
    names = ["--set", f"run.name={run}", "--set", "blocks.include=[]", "--output", run]
    hesspec.call("dense", "config.toml", *names)
    read = lambda table: pyarrow.dataset.dataset(os.path.join(hesspec.folder, run, table, f"run={run}-dense")).to_table()
    rows = read("dense").sort_by("row").to_pylist()
    found = np.array([row["values"] for row in rows])
    yield "dense H", relative(found, truth["H"]), tolerance
    blocks = hesspec.problem.blocks()
    total = np.linalg.norm(truth["H"]) ** 2
    worst = 0.0
    for row in read("dense_shares").to_pylist():
        a, b = blocks[row["part_a"]], blocks[row["part_b"]]
        sides = 1 if row["part_a"] == row["part_b"] else 2
        expected = sides * np.linalg.norm(truth["H"][np.ix_(a, b)]) ** 2 / total
        worst = max(worst, abs(row["share"] - expected))
    yield "dense_shares", worst, 10 * tolerance


def check_lanczos(hesspec, truth, tolerance, steps=8):
    rng = np.random.default_rng(1)
    dim = hesspec.problem.dim
    blocks = hesspec.problem.blocks()
    chosen = [name for name in blocks if name in ("transformer.h.0.attn.q.weight", "transformer.wte.weight", "layers.1.weight",
                                                   "bert.embeddings.word_embeddings.weight")]
    for block in ["full", *chosen]:
        index = np.arange(dim) if block == "full" else blocks[block]
        starts = np.zeros((2, dim))
        starts[:, index] = rng.normal(size=(2, len(index)))
        for i, (got, start) in enumerate(zip(hesspec.lanczos(starts, block, steps), starts, strict=True)):
            alpha, beta = lanczos(truth["H"][np.ix_(index, index)], start[index], steps)
            scale = np.abs(np.concatenate([alpha, beta])).max()
            yield f"lanczos {block} start {i}, alpha", float(np.abs(np.array(got["alpha"]) - alpha).max() / scale), tolerance
            yield f"lanczos {block} start {i}, beta", float(np.abs(np.array(got["beta"]) - beta).max() / scale), tolerance
            yield from check_quadrature(f"lanczos {block} start {i}", got, alpha, beta)


def check_quadrature(label, got, alpha, beta):
    """Nodes and squared first components of the tridiagonal matrix, in ascending order."""
    nodes, vectors = np.linalg.eigh(np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1))
    order = np.argsort(got["nodes"])
    yield f"{label}, nodes", float(np.abs(np.array(got["nodes"])[order] - nodes).max() / np.abs(nodes).max()), 1e-8
    yield f"{label}, weights", float(np.abs(np.array(got["weights"])[order] - vectors[0] ** 2).max()), 1e-6


def check(folder, program, per_call):
    truth, passed = dense(folder), True
    for precision in ("f64", "f32"):
        hesspec, tolerance = Hesspec(program, folder, precision), TOLERANCE[precision]
        rows = [check_scalars(hesspec, truth, tolerance), check_products(hesspec, truth, tolerance, per_call)]
        rows.append(check_dense(hesspec, truth, tolerance))
        if precision == "f64":
            rows.append(check_lanczos(hesspec, truth, tolerance))
        passed &= table(f"{folder} {precision}", itertools.chain(*rows))
    return passed


def table(title, rows):
    print(f"\n{title}\n{'what':60} {'error':>10} {'allowed':>10}")
    passed = True
    for what, error, allowed in rows:
        good = error <= allowed  # NaN fails
        passed &= good
        print(f"{what:60} {error:10.2e} {allowed:10.0e} {'' if good else 'FAILED'}", flush=True)
    return passed


# ---- command line ------------------------------------------------------------------------------------------------

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["make", "hessian", "check", "self", "all"])
    parser.add_argument("--dir", required=True)
    parser.add_argument("--case", choices=sorted(CASES))
    parser.add_argument("--cases", nargs="*", choices=sorted(CASES), default=list(CASES), help="of `all`")
    parser.add_argument("--hesspec", help="path of the program")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--weights-dtype", choices=["f64", "f32"], default="f64")
    parser.add_argument("--per-call", type=int, default=512, help="vectors in one call of hesspec")
    options = parser.parse_args()
    if options.command in ("check", "all") and not options.hesspec:
        parser.error("--hesspec PATH is needed")
    if options.command == "make" and not options.case:
        parser.error("--case NAME is needed: " + ", ".join(CASES))
    dtype = np.float64 if options.weights_dtype == "f64" else np.float32

    passed = True
    if options.command == "make":
        make(options.dir, options.case, options.seed, dtype)
    elif options.command == "hessian":
        truth = dense(options.dir)
        print(f"loss {truth['loss']:.15f}, dim {len(truth['gradient'])}, |H| {np.linalg.norm(truth['H']):.15g}")
    elif options.command == "self":
        passed = self_test(options.dir)
    elif options.command == "check":
        passed = check(options.dir, options.hesspec, options.per_call)
    else:
        for case in options.cases:
            folder = os.path.join(options.dir, case)
            make(folder, case, options.seed, dtype)
            passed &= self_test(folder)
            passed &= check(folder, options.hesspec, options.per_call)
    print("passed" if passed else "FAILED")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
