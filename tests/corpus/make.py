#!/usr/bin/env python3
"""An English corpus of any size out of one text, as people have them: JSON lines (zstd and gzip), Parquet, a tar of texts, text.

    make.py --text data/shakespeare/input.txt --dir D --mb 1000 [--seed 1]

Documents of some kilobytes: passages of the text in random order, some words replaced by numbers, so that no two are alike.
Written: part-0.jsonl.zst, part-1.jsonl.gz, part-2.parquet, part-3.tar, part-4.txt; a fifth of the bytes each, the last as one
single document. Needs pyarrow.
"""

import argparse
import gzip
import io
import json
import pathlib
import random
import tarfile

import pyarrow
import pyarrow.parquet


def documents(passages, rng, size):
    """Texts until their bytes reach `size`."""
    while size > 0:
        words = " ".join(rng.choices(passages, k=rng.randint(2, 12))).split(" ")
        for _ in range(len(words) // 12):
            words[rng.randrange(len(words))] = str(rng.randrange(10**6))
        text = " ".join(words) + rng.choice(["", "\n", "\n\n", " ", "é – 日本"])
        size -= len(text.encode())
        yield text


def json_lines(file, texts):
    for number, text in enumerate(texts):
        file.write((json.dumps({"id": number, "text": text}, ensure_ascii=number % 2 == 0) + "\n").encode())


def parquet(path, texts):
    schema = pyarrow.schema([("text", pyarrow.string())])
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        texts = list(texts)
        for start in range(0, len(texts), 1000):
            writer.write_table(pyarrow.table({"text": texts[start : start + 1000]}, schema=schema))


def archive(path, texts):
    with tarfile.open(path, "w") as tar:
        for number, text in enumerate(texts):
            info = tarfile.TarInfo(f"texts/{number:07}.txt")
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=pathlib.Path, required=True)
    parser.add_argument("--dir", type=pathlib.Path, required=True)
    parser.add_argument("--mb", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    folder, rng = options.dir, random.Random(options.seed)
    folder.mkdir(parents=True, exist_ok=True)
    passages = [text for text in options.text.read_text().split("\n\n") if len(text) > 80]
    some = lambda: documents(passages, rng, options.mb * 1_000_000 // 5)
    with pyarrow.CompressedOutputStream(str(folder / "part-0.jsonl.zst"), "zstd") as file:
        json_lines(file, some())
    with gzip.open(folder / "part-1.jsonl.gz", "wb", compresslevel=1) as file:
        json_lines(file, some())
    parquet(folder / "part-2.parquet", some())
    archive(folder / "part-3.tar", some())
    with open(folder / "part-4.txt", "w") as file:
        file.writelines(some())


if __name__ == "__main__":
    main()
