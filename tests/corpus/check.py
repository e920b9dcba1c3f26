#!/usr/bin/env python3
"""`hesspec data prepare` on a large corpus: memory, speed, tokens, and what kills leave.

    check.py --corpus D --small S --hesspec PATH --vocabulary r50k_base.tiktoken [--mb 40] [--kills 5]

--corpus and --small are folders of make.py, of very different sizes. The peak of memory must be the same for both; the first
--mb megabytes of every form must be token for token what OpenAI's tiktoken (PyPI) makes of the documents, read here by other
libraries; killed --kills times and started again, the shards must have the same bytes. Needs tiktoken, pyarrow, numpy.
"""

import argparse
import gzip
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

import numpy as np
import pyarrow
import pyarrow.parquet
import tiktoken
from tiktoken.load import load_tiktoken_bpe

SHARD = 10_000_000
END_OF_TEXT = 50256
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""  # tiktoken's r50k_base
MOST_MB = 500  # of resident memory
checks = failures = 0


def check(name, holds, detail=""):
    global checks, failures
    checks += 1
    failures += not holds
    print(f"{'ok   ' if holds else 'FAIL '} {name}" + (f": {detail}" if detail and not holds else ""), flush=True)


def command(options, sources, out, shard):
    return [options.hesspec, "data", "prepare", "--tokenizer", "gpt2", "--shard-tokens", str(shard), "--output", str(out), *map(str, sources)]


def measured(arguments):
    """Seconds and peak of resident memory in MB."""
    begin = time.monotonic()
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(arguments)}: exit {process.returncode}")
    return time.monotonic() - begin, usage.ru_maxrss / 1000


def described(out):
    return json.loads((out / "meta.json").read_text())


def documents(path):
    """The documents of one part, as other programs read them."""
    if path.name.endswith(".jsonl.zst"):
        lines = pyarrow.CompressedInputStream(str(path), "zstd").read().decode().splitlines()
        yield from (json.loads(line)["text"] for line in lines)
    elif path.name.endswith(".jsonl.gz"):
        with gzip.open(path, "rt") as file:
            yield from (json.loads(line)["text"] for line in file)
    elif path.suffix == ".parquet":
        yield from pyarrow.parquet.read_table(path)["text"].to_pylist()
    elif path.suffix == ".tar":
        with tarfile.open(path) as archive:
            yield from (archive.extractfile(member).read().decode() for member in archive)
    else:
        yield path.read_bytes().decode()


def same_as_tiktoken(options, path, scratch):
    ranks = load_tiktoken_bpe(options.vocabulary)
    reference = tiktoken.Encoding("r50k_base", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": END_OF_TEXT})
    out = scratch / path.name
    subprocess.run(command(options, [path], out, SHARD), check=True, stdout=subprocess.DEVNULL)
    tokens = np.concatenate([np.fromfile(out / shard["file"], "<u2") for shard in described(out)["shards"]])
    at = size = compared = 0
    for number, text in enumerate(documents(path)):
        expected = ([END_OF_TEXT] if number else []) + reference.encode_ordinary(text)
        if not np.array_equal(tokens[at : at + len(expected)], expected):
            check(f"{path.name}: document {number} is tiktoken's", False)
            return
        at, size, compared = at + len(expected), size + len(text), compared + 1
        if size > options.mb * 1_000_000:
            break
    else:
        check(f"{path.name}: no token is left over", at == len(tokens), f"{len(tokens) - at}")
    check(f"{path.name}: {compared} documents, {at} tokens are those of tiktoken", True)


def killed(options, sources, out):
    """Kills at times of its own, then to the end; the number of kills that hit."""
    rng, hits = random.Random(3), 0
    for _ in range(options.kills):
        process = subprocess.Popen(command(options, sources, out, SHARD // 10), stdout=subprocess.DEVNULL)
        try:
            process.wait(timeout=rng.uniform(1.0, 6.0))
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            hits += 1
    subprocess.run(command(options, sources, out, SHARD // 10), check=True, stdout=subprocess.DEVNULL)
    return hits


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ["corpus", "small"]:
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    parser.add_argument("--hesspec", required=True)
    parser.add_argument("--vocabulary", required=True)
    parser.add_argument("--mb", type=int, default=40)
    parser.add_argument("--kills", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.corpus.parent) as scratch:
        scratch = pathlib.Path(scratch)
        large, small = (sorted(folder.glob("part-*")) for folder in (options.corpus, options.small))
        _, small_peak = measured(command(options, small, scratch / "small", SHARD))
        seconds, peak = measured(command(options, large, scratch / "large", SHARD))
        tokens = described(scratch / "large")["num_tokens"]
        print(f"     {tokens} tokens in {seconds:.1f} s, {tokens / seconds / 1e6:.2f} M tokens/s on {os.cpu_count()} cores")
        check(f"peak of memory {peak:.0f} MB, for the small corpus {small_peak:.0f} MB", peak < 1.25 * small_peak + 20 and peak < MOST_MB)
        for path in small:
            same_as_tiktoken(options, path, scratch)
        whole, parts = scratch / "whole", scratch / "parts"
        subprocess.run(command(options, small, whole, SHARD // 10), check=True, stdout=subprocess.DEVNULL)
        hits = killed(options, small, parts)
        check(f"killed {hits} times: the same description", hits > 0 and described(whole) == described(parts))
        names = [shard["file"] for shard in described(whole)["shards"]]
        check(f"the same bytes in {len(names)} shards", all((whole / n).read_bytes() == (parts / n).read_bytes() for n in names))
        left = sorted(path.name for path in parts.iterdir())
        check("and nothing else", left == sorted([*names, "meta.json"]), str(left))
    print(f"{checks} checks, {failures} failed")
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
