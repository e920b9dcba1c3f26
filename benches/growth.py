#!/usr/bin/env python3
"""Time and memory of the full product against tokens, slots and layers: one Markdown table.

    benches/growth.py --hesspec target/debug/hesspec [--repeats 5] [--out FILE]

GPT2-nano's width and context. One size is varied at a time; a size's exponent is the slope of log(time) or log(memory beyond the
process's own) from the smallest to the largest value, 1 where growth is linear, less where a fixed part is shared.
"""

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROCESS_MB = 60
VARIED = {
    "tokens": [256, 512, 1024, 2048, 4096],
    "slots": [1, 2, 4, 8],
    "layers": [3, 6, 12],
}
BASE = {"tokens": 1024, "slots": 4, "layers": 6}


def measure(options, tokens, slots, layers):
    command = [options.hesspec, "bench", "configs/bench_nano.toml", "--only", "full", "--slots", str(slots), "--repeats",
               str(options.repeats), "--set", f"batch.tokens={tokens}", "--set", f"model.gpt2.layers={layers}",
               "--set", "batch.micro_batch=4", "--set", 'blocks.include=["*"]']
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-2000:]}")
    case = json.loads(done.stdout)
    return slots * case["seconds_per_slot"], case["peak_rss_mb"]


def processor():
    with open("/proc/cpuinfo") as file:
        return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hesspec", default="target/debug/hesspec")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out")
    options = parser.parse_args()
    lines = ["# Growth of the full product", "",
             f"{processor()}, 2 threads, f32, GPT2-nano's width and context, micro-batches of 4 x 256 tokens: memory does not grow with "
             f"tokens beyond one. Command: `benches/growth.py --repeats {options.repeats}`. Base: {BASE}.", "",
             "| varied | value | seconds of all slots | MB |", "|---|---|---|---|"]
    for name, values in VARIED.items():
        found = [measure(options, **(BASE | {name: value})) for value in values]
        lines += [f"| {name} | {value} | {seconds:.3f} | {mb:.0f} |" for value, (seconds, mb) in zip(values, found)]
        span = math.log(values[-1] / values[0])
        slope = lambda first, last: math.log(last / first) / span
        lines.append(f"| {name} | exponent | {slope(found[0][0], found[-1][0]):.2f} | "
                     f"{slope(found[0][1] - PROCESS_MB, found[-1][1] - PROCESS_MB):.2f} |")
    text = "\n".join(lines)
    print(text)
    if options.out:
        Path(options.out).write_text(text + "\n")


main()
