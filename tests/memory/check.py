#!/usr/bin/env python3
"""The plan's memory model against real runs: predicted and measured peak of resident memory, within 15 %.

    tests/memory/check.py --hesspec target/debug/hesspec [--tolerance 0.15]

Each case is a run of a few Lanczos steps of GPT2-nano, a wider network or one of another kind on made tokens or images; its peak is what the kernel counted
(ru_maxrss). Cases differ in what dominates: the basis, the activations of many tokens, one slot or eight, late blocks.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent.parent
NANO = ["model.gpt2.vocabulary=84"]
LATE, EARLY = 'blocks.include=["transformer.h.5.mlp.*"]', 'blocks.include=["transformer.h.0.attn.*"]'
CASES = {
    "full, the basis dominates": NANO + ["batch.tokens=512", "lanczos.steps=30", "lanczos.full_probes=2", 'blocks.include=["*.ln_f.*"]'],
    "full, one slot, 2048 tokens": NANO + ["batch.tokens=2048", "batch.micro_batch=8", "batch.segments=1", "lanczos.steps=3",
                                           "lanczos.full_probes=1", 'blocks.include=["*.ln_f.*"]'],
    "early blocks, eight slots, 1024 tokens": NANO + ["batch.tokens=1024", "batch.segments=1", "lanczos.steps=3", "lanczos.probes=2",
                                                      "blocks.full=false", EARLY],
    "early blocks, one slot, 2048 tokens": NANO + ["batch.tokens=2048", "batch.micro_batch=8", "batch.segments=1", "hessian.slots=1",
                                                   "lanczos.steps=3", "lanczos.probes=1", "blocks.full=false", EARLY],
    "late blocks, eight slots, 4096 tokens": NANO + ["batch.tokens=4096", "batch.micro_batch=16", "batch.segments=1", "lanczos.steps=4",
                                                     "lanczos.probes=4", "blocks.full=false", LATE],
    "twice as wide, 1024 tokens": ["model.gpt2.embedding=768", "model.gpt2.heads=12", "model.gpt2.mlp=3072", "model.gpt2.layers=4",
                                   "model.gpt2.vocabulary=5000", "batch.tokens=1024", "batch.segments=1", "lanczos.steps=8",
                                   "lanczos.full_probes=1", 'blocks.include=["*.ln_f.*"]'],
    "full, four slots, recomputed, 8192 tokens": NANO + ["batch.tokens=8192", "batch.micro_batch=32", "batch.segments=1",
                                                         "lanczos.steps=2", "lanczos.full_probes=4", "hessian.recompute=true",
                                                         'blocks.include=["*.ln_f.*"]'],
    "early blocks, eight slots, recomputed, 4096 tokens": NANO + ["batch.tokens=4096", "batch.micro_batch=16", "batch.segments=1",
                                                                  "lanczos.steps=2", "lanczos.probes=2", "blocks.full=false",
                                                                  "hessian.recompute=true", EARLY],
    # Gauss-Newton products form the logits as a whole
    "Gauss-Newton, a vocabulary of 50,304": ["model.gpt2.embedding=16", "model.gpt2.heads=2", "model.gpt2.mlp=64", "model.gpt2.layers=2",
                                             "model.gpt2.vocabulary=50304", "batch.tokens=1024", "batch.micro_batch=4", "batch.segments=1",
                                             "lanczos.steps=3", "lanczos.full_probes=1", "lanczos.probes=1",
                                             'hessian.operator="gauss_newton"', 'blocks.include=["*.ln_f.*"]'],
    "Gauss-Newton, four slots": ["model.gpt2.embedding=16", "model.gpt2.heads=2", "model.gpt2.mlp=64", "model.gpt2.layers=2",
                                 "model.gpt2.vocabulary=10000", "batch.tokens=2048", "batch.micro_batch=8", "batch.segments=1",
                                 "lanczos.steps=3", "lanczos.full_probes=4", 'hessian.operator="gauss_newton"',
                                 'blocks.include=["*.ln_f.*"]'],
    # what is tested and measured in f64 before the first group takes more than the group
    "f64 dominates, an embedding of 31 M entries": ["model.gpt2.embedding=768", "model.gpt2.heads=12", "model.gpt2.mlp=3072",
                                                    "model.gpt2.layers=2", "model.gpt2.vocabulary=40000", "batch.tokens=256", "batch.segments=1",
                                                    "lanczos.steps=1", "lanczos.probes=1", "blocks.full=false", 'blocks.include=["*.wte.*"]'],
    "a decoder, eight slots, 1024 tokens": ["model.decoder.vocabulary=84", "batch.tokens=1024", "batch.segments=1", "lanczos.steps=3",
                                            "lanczos.probes=2", "blocks.full=false", 'blocks.include=["model.layers.0.self_attn.*"]'],
    "a decoder, full, 2048 tokens": ["model.decoder.vocabulary=84", "batch.tokens=2048", "batch.micro_batch=8", "batch.segments=1",
                                     "lanczos.steps=3", "lanczos.full_probes=1", 'blocks.include=["model.norm.weight"]'],
    "a vision transformer, eight slots, 64 images": ["model.vit.preset=tiny", "model.vit.image=[64, 64]", "model.vit.patch=8",
                                                     "model.vit.channels=1", "batch.samples=64", "batch.micro_batch=64", "lanczos.steps=3",
                                                     "lanczos.probes=2", "blocks.full=false", 'blocks.include=["blocks.0.attn.*.weight", "blocks.0.mlp.*"]'],
    "a ResNet-18, full, 32 images": ["model.resnet.image=[64, 64]", "model.resnet.channels=1", "model.resnet.stem=cifar", "batch.samples=32",
                                     "batch.micro_batch=32", "lanczos.steps=2", "lanczos.full_probes=1", 'blocks.include=["fc.weight"]'],
    "BERT, eight slots, 64 pairs": ["model.bert.embedding=192", "model.bert.heads=3", "model.bert.layers=6", "model.bert.vocabulary=2000",
                                    "model.bert.context=64", "batch.samples=64", "batch.micro_batch=32", "batch.segments=1", "lanczos.steps=3",
                                    "lanczos.probes=2", "blocks.full=false", 'blocks.include=["*.layer.0.attention.*.weight"]'],
    "BERT, full, a large vocabulary": ["model.bert.embedding=64", "model.bert.heads=2", "model.bert.layers=3", "model.bert.vocabulary=30000",
                                       "model.bert.context=64", "model.bert.loss=mlm+nsp", "batch.samples=64", "batch.micro_batch=64",
                                       "batch.segments=1", "lanczos.steps=2", "lanczos.full_probes=1", 'blocks.include=["bert.pooler.*"]'],
    "BERT, recomputed, 64 pairs": ["model.bert.embedding=192", "model.bert.heads=3", "model.bert.layers=6", "model.bert.vocabulary=2000",
                                   "model.bert.context=64", "batch.samples=64", "batch.micro_batch=64", "batch.segments=1", "lanczos.steps=2",
                                   "lanczos.full_probes=2", "hessian.recompute=true", 'blocks.include=["cls.predictions.bias"]'],
    "f64 dominates, full": ["model.gpt2.embedding=768", "model.gpt2.heads=12", "model.gpt2.mlp=3072", "model.gpt2.layers=4",
                            "model.gpt2.vocabulary=5000", "batch.tokens=256", "batch.segments=1", "lanczos.steps=1",
                            "lanczos.full_probes=1", "blocks.include=[]"],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hesspec", default="target/debug/hesspec")
    parser.add_argument("--tolerance", type=float, default=0.15)
    parser.add_argument("--only", help="cases whose name contains this")
    options = parser.parse_args()
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "train.bin"
        draw = random.Random(1)
        tokens.write_bytes(b"".join(draw.randrange(84).to_bytes(2, "little") for _ in range(20000)))
        images, labels = Path(folder) / "images.idx", Path(folder) / "labels.idx"
        images.write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 64, 0, 0, 0, 64, 0, 0, 0, 64]) + draw.randbytes(64**3))
        labels.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 64]) + bytes(draw.randrange(10) for _ in range(64)))
        pairs = Path(folder) / "pairs.jsonl"
        pair = lambda: dict(input_ids=[draw.randrange(2000) for _ in range(64)], next_sentence_label=draw.randrange(2))
        pairs.write_text("".join(json.dumps(pair()) + "\n" for _ in range(64)))
        on_pairs = f'[data.pairs]\npath = "{pairs}"\nmask = {{ token = 1 }}'
        on_tokens = f'[data.tokens]\npath = "{tokens}"'
        on_images = f'[data.images]\npath = "{images}"\nlabels = "{labels}"'
        for number, (name, sets) in enumerate(CASES.items()):
            if options.only and options.only not in name:
                continue
            kind = sets[0].split(".")[1]
            preset = 'preset = "nano"' if kind in ("gpt2", "decoder") else ""
            data = dict(gpt2=on_tokens, decoder=on_tokens, bert=on_pairs).get(kind, on_images)
            config = Path(folder) / "memory.toml"
            config.write_text(f'[model.{kind}]\n{preset}\n{data}\n[distance]\nmetrics = ["wasserstein1"]\n')
            sets = [arg for pair in sets for arg in ("--set", pair)]
            plan = subprocess.run([options.hesspec, "plan", str(config), "--no-timing", "--json", *sets], capture_output=True, text=True,
                                  cwd=HERE, check=True)
            predicted = json.loads(plan.stdout)["memory_bytes"]
            process = subprocess.Popen([options.hesspec, "run", str(config), "--output", f"{folder}/{number}", *sets], cwd=HERE,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            errors = process.stderr.read()
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                sys.exit(f"{name}: the run failed\n{errors.decode()}")
            peak = usage.ru_maxrss * 1024
            wrong = abs(predicted / peak - 1) > options.tolerance
            failures += wrong
            print(f"{'FAIL' if wrong else 'ok  '}  {name}: predicted {predicted / 1e9:.2f} GB, peak {peak / 1e9:.2f} GB, "
                  f"ratio {predicted / peak:.2f}", flush=True)
    print(f"{failures} of {len(CASES)} cases off by more than {100 * options.tolerance:.0f} %")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
