#!/usr/bin/env python3
"""BERT in the files that transformers writes, on pairs of unequal length, against transformers.

    reference_torch_bert.py --dir D --hesspec PATH

Random weights of BertForPreTraining are saved by save_pretrained (one file, shards), by torch.save, and under the names of before 2019;
hesspec reads them with nothing but `weights` in the configuration. Its loss, with and without the next sentence, must be that of
BertForPreTraining and BertForMaskedLM on one padded batch to 1e-5 (relative, f32); H v of the whole and of blocks that of double
backward in f64 to 1e-4.
Needs torch, transformers, numpy, safetensors.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining

SIZES = dict(
    num_hidden_layers=2, num_attention_heads=4, hidden_size=16, intermediate_size=24, vocab_size=97, max_position_embeddings=20,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attn_implementation="eager",
)
PAIRS = 7
BLOCKS = ["full", "bert.encoder.layer.0.attention.self.query.weight", "bert.encoder.layer.1.output.dense.weight",
          "bert.embeddings.word_embeddings.weight", "cls.predictions.bias"]
checks = failures = 0


def check(name, value, limit):
    global checks, failures
    checks += 1
    failures += not value <= limit  # NaN fails
    print(f"{'ok   ' if value <= limit else 'FAIL '} {name}: {value:.2e} (at most {limit:.0e})", flush=True)


def pairs():
    """What a tokenizer gives for pairs, and DataCollatorForLanguageModeling for the hidden tokens."""
    rng = np.random.default_rng(5)
    for pair in range(PAIRS):
        length = int(rng.integers(4, 13))
        labels = np.where(rng.random(length) < 0.3, rng.integers(0, 97, length), -100)
        labels[rng.integers(length)] = 3
        yield dict(
            input_ids=rng.integers(0, 97, length).tolist(), token_type_ids=[int(2 * at >= length) for at in range(length)],
            labels=labels.tolist(), next_sentence_label=pair % 2,
        )


def padded(all_pairs):
    """One batch, as long as the longest pair."""
    longest = max(len(pair["input_ids"]) for pair in all_pairs)
    fill = lambda key, value: torch.tensor([pair[key] + [value] * (longest - len(pair[key])) for pair in all_pairs])
    mask = torch.tensor([[1] * len(pair["input_ids"]) + [0] * (longest - len(pair["input_ids"])) for pair in all_pairs])
    return dict(input_ids=fill("input_ids", 0), token_type_ids=fill("token_type_ids", 0), attention_mask=mask, labels=fill("labels", -100))


def randomised(model):
    """Every parameter, biases and norms too, far from its initialisation."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def hesspec(folder, program, *arguments):
    done = subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"hesspec {' '.join(arguments)}: exit {done.returncode}\n{done.stderr}")
    return done.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=pathlib.Path, required=True)
    parser.add_argument("--hesspec", required=True)
    options = parser.parse_args()
    folder, program = options.dir, str(pathlib.Path(options.hesspec).resolve())
    folder.mkdir(parents=True, exist_ok=True)
    every = list(pairs())
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in every))
    inputs, next_sentence = padded(every), torch.tensor([pair["next_sentence_label"] for pair in every])

    for act in ["gelu", "gelu_new"]:
        torch.manual_seed(3)
        model = randomised(BertForPreTraining(BertConfig(**SIZES, hidden_act=act)))
        model.save_pretrained(folder / f"whole-{act}")
        model.save_pretrained(folder / f"shards-{act}", max_shard_size="10KB")
        state, config = model.state_dict(), (folder / f"whole-{act}/config.json").read_text()
        old = {k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v for k, v in state.items()}
        for name, tensors in [("bin", state), ("old", old)]:
            (folder / f"{name}-{act}").mkdir(exist_ok=True)
            (folder / f"{name}-{act}/config.json").write_text(config)
            torch.save(tensors, folder / f"{name}-{act}/pytorch_model.bin")
        tokens_only = BertForMaskedLM.from_pretrained(folder / f"whole-{act}", attn_implementation="eager").eval()
        with torch.no_grad():
            losses = {
                "mlm+nsp": model(**inputs, next_sentence_label=next_sentence).loss.item(),
                "mlm": tokens_only(**inputs).loss.item(),
            }
        for what, expected in losses.items():
            for weights in ["whole", "shards", "bin", "old"]:
                name = f"{weights}-{act}-{what.replace('+', '-')}.toml"
                keys = f'[model.bert]\nweights = "{weights}-{act}"\nloss = "{what}"\n'
                (folder / name).write_text(f'{keys}[data.pairs]\npath = "pairs.jsonl"\n[batch]\nmicro_batch = 3\n')
                found = json.loads(hesspec(folder, program, "hvp", name, "--loss", "--json"))["loss"]
                check(f"{weights}, {act}, {what}: loss {expected:.6f}", abs(found - expected) / expected, 1e-5)
        products(folder, program, f"whole-{act}-mlm-nsp.toml", model.double(), dict(**inputs, next_sentence_label=next_sentence))
    print(f"{checks} checks, {failures} failed")
    return failures > 0


def products(folder, program, config, model, inputs):
    """H v against double backward."""
    named = dict(model.named_parameters())
    vector = {key: torch.randn(p.shape) for key, p in named.items()}
    save_file(vector, folder / "v.safetensors")
    gradient = dict(zip(named, torch.autograd.grad(model(**inputs).loss, list(named.values()), create_graph=True)))
    for block in BLOCKS:
        hesspec(folder, program, "hvp", config, "--vectors", "v.safetensors", "--out", "hv.safetensors", "--block", block)
        found, active = load_file(folder / "hv.safetensors"), list(named) if block == "full" else [block]
        slope = sum((gradient[key] * vector[key].double()).sum() for key in active)
        expected = dict(zip(active, torch.autograd.grad(slope, [named[key] for key in active], retain_graph=True)))
        difference = sum(float(((found[key].double() - expected[key]) ** 2).sum()) for key in active)
        norm = sum(float((value**2).sum()) for value in expected.values())
        check(f"{config}: H v of {block}, norm {norm ** 0.5:.3g}", (difference / norm) ** 0.5, 1e-4)


if __name__ == "__main__":
    sys.exit(main())
