#!/usr/bin/env python3
"""Strong scaling on this machine: R ranks of one thread under mpirun beside R independent single-thread processes.

    benches/strong_scaling.py --hesspec target/debug/hesspec [--ranks 2] [--rounds 3] [--config CONFIG] [--set KEY=VALUE ...]

Both keep R cores busy, so memory bandwidth and clock are the same; what is lost is exchange, imbalance and the coordinator's own
work. A third run, of one process with R threads, says which way to use the cores. Rates are products H v over the whole batch per second from the table `metrics` (median over steps, best of rounds);
the share of rank 0's time outside of products and exchange is the coordinator's. A build with --features mpi, and pyarrow.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as parquet

HERE = Path(__file__).resolve().parent
DEFAULTS = ["batch.tokens=8192", "batch.micro_batch=1", "batch.segments=2", "lanczos.steps=5", "lanczos.probes=2",
            'blocks.include=["transformer.h.3.*"]', "blocks.full=false", "distance.grid_points=2000"]


def start(options, name, ranks, threads=1):
    out = Path(options.folder) / name
    launcher = [] if ranks == 1 else ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(ranks)]
    if ranks > 1 and os.getuid() == 0:
        launcher.insert(1, "--allow-run-as-root")
    sets = [arg for pair in DEFAULTS + [f"run.threads={threads}"] + options.set for arg in ("--set", pair)]
    command = launcher + [options.hesspec, "run", options.config, "--output", str(out), "--set", f"run.name=\"{name}\""] + sets
    return out, subprocess.Popen(command, cwd=HERE.parent, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(job):
    out, process = job
    _, errors = process.communicate()
    if process.returncode:
        sys.exit(f"exit {process.returncode}\n{errors[-2000:]}")
    rows = [row for path in sorted(out.glob("metrics/**/*.parquet")) for row in parquet.read_table(path).to_pylist()]
    rate = statistics.median(row["products_per_second"] for row in rows)
    own = sum(r["seconds"] - r["seconds_products"] - r["seconds_reduction"] for r in rows) / sum(r["seconds"] for r in rows)
    waits = sum(r["seconds_reduction"] for r in rows) / sum(r["seconds"] for r in rows)
    return rate, own, waits


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hesspec", default="target/debug/hesspec")
    parser.add_argument("--config", default="configs/quickstart.toml")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    options.hesspec = str(Path(options.hesspec).resolve())
    options.folder = tempfile.mkdtemp()
    try:
        together, apart, threaded, own, waits = [], [], [], [], []
        for turn in range(options.rounds):
            jobs = [start(options, f"apart{turn}-{index}", 1) for index in range(options.ranks)]
            apart.append(sum(finish(job)[0] for job in jobs))
            rate, coordinator, wait = finish(start(options, f"together{turn}", options.ranks))
            together.append(rate), own.append(coordinator), waits.append(wait)
            threaded.append(finish(start(options, f"threads{turn}", 1, options.ranks))[0])
            print(f"round {turn}: apart {apart[-1]:.3f}, together {rate:.3f}, one process of {options.ranks} threads {threaded[-1]:.3f} "
                  "products/s", flush=True)
        print(f"ratio {max(together) / max(apart):.3f} (best of {options.rounds} rounds; by round "
              + ", ".join(f"{a / b:.3f}" for a, b in zip(together, apart)) + ")")
        print(f"one process of {options.ranks} threads: {max(threaded) / max(apart):.3f}")
        print(f"rank 0 outside of products and exchange: {100 * statistics.median(own):.2f} % of a step; "
              f"exchange with the wait for others {100 * statistics.median(waits):.2f} %")
    finally:
        shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
