#!/usr/bin/env python3
"""Makes nanogpt.pt and nanogpt_legacy.pt beside this file: a checkpoint as nanoGPT's train.py writes it, by the real torch.save (here
of torch 2.15), in its present format and in the one of before 1.6.

A network of 1 layer, 2 heads, width 4, mlp 6, context 3, vocabulary 5, with biases. Entry i of its parameters, in hesspec's
order and layout, is i / 8. `wpe` is a transposed view, so that its strides matter.
"""

import pathlib

import torch

SHAPES = {  # hesspec's order and layout: (in, out)
    "wte.weight": (5, 4), "wpe.weight": (3, 4), "h.0.ln_1.weight": (4,), "h.0.ln_1.bias": (4,),
    "h.0.attn.c_attn.weight": (4, 12), "h.0.attn.c_attn.bias": (12,), "h.0.attn.c_proj.weight": (4, 4), "h.0.attn.c_proj.bias": (4,),
    "h.0.ln_2.weight": (4,), "h.0.ln_2.bias": (4,), "h.0.mlp.c_fc.weight": (4, 6), "h.0.mlp.c_fc.bias": (6,),
    "h.0.mlp.c_proj.weight": (6, 4), "h.0.mlp.c_proj.bias": (4,), "ln_f.weight": (4,), "ln_f.bias": (4,),
}

state, start = {}, 0
for name, shape in SHAPES.items():
    size = torch.Size(shape).numel()
    value = torch.arange(start, start + size).reshape(shape) / 8
    start += size
    if ".c_" in name and len(shape) == 2:
        value = value.t().contiguous()  # torch's Linear
    if name == "wpe.weight":
        value = value.t().contiguous().t()
    state[f"_orig_mod.transformer.{name}"] = value
state["_orig_mod.transformer.h.0.attn.bias"] = torch.tril(torch.ones(3, 3)).view(1, 1, 3, 3)
state["_orig_mod.lm_head.weight"] = state["_orig_mod.transformer.wte.weight"]

parameter = torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.AdamW([parameter], betas=(0.9, 0.95))
parameter.sum().backward()
optimizer.step()
checkpoint = dict(
    model=state, optimizer=optimizer.state_dict(), model_args=dict(n_layer=1, bias=True), iter_num=7,
    best_val_loss=torch.tensor(1e9), config=dict(learning_rate=6e-4, compile=True, seed=2**40, init_from="scratch", out=None),
)
torch.save(checkpoint, pathlib.Path(__file__).with_name("nanogpt.pt"))
torch.save(checkpoint, pathlib.Path(__file__).with_name("nanogpt_legacy.pt"), _use_new_zipfile_serialization=False)
