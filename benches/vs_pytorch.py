#!/usr/bin/env python3
"""hesspec beside PyTorch on the same machine in the same run: one Markdown table of ratios.

    benches/vs_pytorch.py --model nano --hesspec target/debug/hesspec [--python VENV/bin/python] [--rounds 3] [--out FILE]
    benches/vs_pytorch.py --model nano --blocks paper --slots 3     all matrices of nano, or those of the paper's four layers
    benches/vs_pytorch.py --model 124m --device cuda --batch 8 [--math tf32]     on a GPU

Rounds alternate between the two programs, and each figure is the median over rounds, so that a drift of the machine's speed
hits both. PyTorch (2.x from PyPI in an environment of its own): benches/pytorch_hvp.py. Blocks: the first attention projection,
a middle MLP projection up, the last one down; or all matrices. Ours are those of every sweep but a group's first, which fills the
prefix cache; block by block, and as a run computes them, in groups of slots of several blocks.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODELS = {
    "nano": dict(config="configs/bench_nano.toml", batch=4, context=256, layers=range(6), three=[(0, "attn.c_attn"), (3, "mlp.c_fc"), (5, "mlp.c_proj")]),
    "124m": dict(config="configs/bench_124m.toml", batch=1, context=1024, layers=(0, 3, 7, 11), three=[(0, "attn.c_attn"), (6, "mlp.c_fc"), (11, "mlp.c_proj")]),
}


def chosen(model, which):
    parts = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    if which == "three":
        return [f"transformer.h.{layer}.{name}" for layer, name in model["three"]]
    return ["transformer.wte", *(f"transformer.h.{layer}.{name}" for layer in model["layers"] for name in parts)]


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def median(rounds, key, field):
    return statistics.median(r[key][field] for r in rounds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="nano")
    parser.add_argument("--hesspec", default="target/debug/hesspec")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has torch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--math", choices=("f32", "tf32", "3xtf32"), default="f32", help="of ours; PyTorch takes tf32 for tf32, else f32")
    parser.add_argument("--batch", type=int, help="windows, instead of the model's own number")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--blocks", choices=("three", "paper"), default="three")
    parser.add_argument("--slots", default="1,4,10")
    parser.add_argument("--out", help="also write the table here")
    options = parser.parse_args()
    model = MODELS[options.model]
    if options.batch:
        model["batch"] = options.batch
    sets = [f"run.threads={options.threads}", f"batch.tokens={model['batch'] * model['context']}", f"batch.micro_batch={model['batch']}"]
    if options.device == "cuda":
        sets += ["hessian.backend=cuda", f'hessian.math="{options.math}"']
    blocks = chosen(model, options.blocks)
    sets.append("blocks.include=[" + ",".join(f'"{block}"' for block in blocks) + "]")
    ours, theirs = [], []
    for _ in range(options.rounds):
        torch = run([options.python, "benches/pytorch_hvp.py", "--model", options.model, "--batch", str(model["batch"]),
                     "--context", str(model["context"]), "--threads", str(options.threads), "--repeats", str(options.repeats), "--json",
                     "--device", options.device, "--math", "tf32" if options.math == "tf32" else "f32", "--blocks", ",".join(f"{block}.weight" for block in blocks)])
        theirs.append({(c["what"].removesuffix(".weight"), c["variant"]): c for c in torch["cases"]})
        bench = run([options.hesspec, "bench", model["config"], "--json", "--slots", options.slots, "--repeats", str(options.repeats),
                     "--together", *(part for value in sets for part in ("--set", value))])
        ours.append({(c["what"], c["slots"]): c for c in bench["cases"]} | {"sgemm": {"rate": bench["sgemm_gflops"]}})
    slots = [int(s) for s in options.slots.split(",")]
    text = table(options, bench, torch, ours, theirs, slots, blocks)
    print(text)
    if options.out:
        Path(options.out).write_text(text + "\n")


def table(options, bench, torch, ours, theirs, slots, blocks):
    on_gpu = options.device == "cuda"
    machine = f"{torch['machine']}, {options.math}" if on_gpu else f"{bench['machine']['cpu']}, {options.threads} threads, f32"
    gpu = f" --device cuda --math {options.math}" if on_gpu else ""
    batch = f" --batch {options.batch}" if options.batch else ""
    memory_of = "peak_device_mb" if on_gpu else "peak_rss_mb"
    lines = [
        f"# {options.model}: hesspec and PyTorch {torch['torch']}",
        "",
        f"{machine}, {torch['tokens']} tokens, median of {options.rounds} alternating rounds. sgemm: hesspec "
        f"{median(ours, 'sgemm', 'rate'):.0f}, PyTorch {torch['sgemm_gflops']:.0f} GFLOP/s.",
        f"Command: `benches/vs_pytorch.py --model {options.model}{gpu}{batch} --blocks {options.blocks} --slots {options.slots} --rounds {options.rounds} --repeats {options.repeats}`. Ratios above 1: hesspec is faster, or needs less memory.",
        "",
        "| product | slots | s per slot | GFLOP/s | share of sgemm | MB | against double backward | memory | graph kept | the paper's way |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    sums = {s: [0.0, 0.0, 0.0] for s in slots}
    for what in ["full", *blocks]:
        variant = "double_backward" if what == "full" else "only_block"
        reference, memory = (median(theirs, (what, variant), f) for f in ("seconds_per_slot", "peak_rss_mb"))
        kept = median(theirs, ("full", "graph_kept"), "seconds_per_slot") if what == "full" else None
        paper = None if what == "full" else median(theirs, (what, "paper"), "seconds_per_slot")
        for s in slots:
            seconds, mb, gflops, share = (median(ours, (what, s), f) for f in ("seconds_per_slot", memory_of, "gflops", "share_of_sgemm"))
            ratio = lambda other: f"{other / seconds:.2f}" if other else ""
            lines.append(f"| {what} | {s} | {seconds:.4f} | {gflops:.0f} | {share:.2f} | {mb:.0f} | {ratio(reference)} | {memory / mb:.2f} | {ratio(kept)} | {ratio(paper)} |")
            if what != "full":
                sums[s] = [a + b for a, b in zip(sums[s], (seconds, reference, paper))]
    for s, (seconds, reference, paper) in sums.items():
        lines.append(f"| all {len(blocks)} blocks in sum, one by one | {s} | {seconds:.4f} | | | | {reference / seconds:.2f} | | | {paper / seconds:.2f} |")
        seconds, mb, gflops, share = (median(ours, ("together", s), f) for f in ("seconds_per_slot", memory_of, "gflops", "share_of_sgemm"))
        seconds *= len(blocks)
        lines.append(f"| the same, {s} probes each in a run's groups | {s} | {seconds:.4f} | {gflops:.0f} | {share:.2f} | {mb:.0f} | "
                     f"{reference / seconds:.2f} | | | {paper / seconds:.2f} |")
    return "\n".join(lines)


main()
