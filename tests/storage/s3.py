#!/usr/bin/env python3
"""Runs on an S3-compatible server on loopback: results, resume, report, failures in between, secrets.

    python s3.py HESSPEC

HESSPEC is the program, built with --features s3,http. Needs moto[server] and pyarrow (PyPI); with duckdb, polars and pandas
the copied tables are read by tests/python/read_tables.py as well. Prints one line a check; exits 1 if one fails.
"""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import pyarrow.fs
import pyarrow.parquet

from faulty_proxy import FaultyProxy

HERE = pathlib.Path(__file__).resolve().parent
KEY, SECRET, TOKEN = "AKIATESTKEYID00000000", "SECRETsecretSECRETsecret+/0123456789abcd", "TOKENtokenTOKENtoken0123456789"
CONFIG = """
[model.gpt2]
layers = 2
heads = 2
embedding = 16
mlp = 32
context = 8
vocabulary = 11
[data.tokens]
path = "train.bin"
[batch]
micro_batch = 2
[blocks]
exclude = ["*.ln_*"]
[hessian]
slots = 4
[lanczos]
steps = 6
probes = 2
full_probes = 1
[distance]
grid_points = 2000
"""
TABLES = ["blocks", "tridiagonal", "nodes", "density", "divergence", "summary", "segments"]
checks = failures = 0


def check(name, holds, detail=""):
    global checks, failures
    checks += 1
    failures += not holds
    print(f"{'ok   ' if holds else 'FAIL '} {name}" + (f"\n      {detail}" if detail and not holds else ""), flush=True)


def start_server():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(150):
        try:
            urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/bucket", method="PUT"))
            return server, port
        except OSError:
            time.sleep(0.2)
    server.terminate()
    sys.exit("the S3 server did not start in 30 s")


class Place:
    """A folder with a tiny configuration, and the program with the credentials in its environment."""

    def __init__(self, program, folder, endpoint):
        self.program, self.folder, self.endpoint = program, folder, endpoint
        self.said = []
        (folder / "tiny.toml").write_text(CONFIG)
        numbers = [(at * 2654435761 >> 16) % 11 for at in range(200)]
        (folder / "train.bin").write_bytes(b"".join(n.to_bytes(2, "little") for n in numbers))

    def environment(self, **more):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        # whatever happens to the keys: nothing but loopback is ever asked
        own = dict(AWS_EC2_METADATA_DISABLED="true", AWS_ACCESS_KEY_ID=KEY, AWS_SECRET_ACCESS_KEY=SECRET, AWS_SESSION_TOKEN=TOKEN)
        own.update(AWS_REGION="us-east-1", AWS_ENDPOINT_URL=self.endpoint, HESSPEC_LOG="trace")
        return {name: value for name, value in {**kept, **own, **more}.items() if value is not None}

    def start(self, arguments, **more):
        pipe = subprocess.PIPE
        environment = self.environment(**more)
        return subprocess.Popen(
            [self.program, *arguments.split()], cwd=self.folder, env=environment, stdout=pipe, stderr=pipe, text=True
        )

    def end(self, process, timeout=300):
        out, err = process.communicate(timeout=timeout)
        self.said += [out, err]
        return process.returncode, out, err

    def run(self, arguments, **more):
        return self.end(self.start(arguments, **more))


def messages(text):
    """The lines that a person reads, without the trace."""
    return "\n".join(line for line in text.splitlines() if line.startswith("hesspec: "))


def rows(folder, table):
    """A table's rows without what the clock said, sorted."""
    columns = pyarrow.parquet.ParquetDataset(folder / table).read().to_pylist()
    kept = [tuple((name, repr(value)) for name, value in row.items() if name not in ("seconds", "run")) for row in columns]
    return sorted(kept)


def same_tables(a, b):
    return [table for table in TABLES if rows(a, table) != rows(b, table)]


def copied(place, port, prefix):
    """The objects below a prefix, as files."""
    target = place.folder / f"copy-{prefix}"
    pyarrow.fs.copy_files(f"bucket/{prefix}", str(target), source_filesystem=bucket(port))
    return target


def plain_use(place, port):
    code, _, err = place.run("run tiny.toml --output local")
    check("the reference, on disk", code == 0, messages(err))
    begin = time.monotonic()
    code, out, err = place.run("run tiny.toml --output s3://bucket/plain")
    check(f"a run into a bucket ({time.monotonic() - begin:.1f} s)", code == 0, messages(err))
    code, out, err = place.run("run tiny.toml --output s3://bucket/plain")
    check("the same command finds it done", code == 0 and "already done" in out, out + messages(err))
    code, _, err = place.run("run tiny.toml --output s3://bucket/plain --set run.seed=7")
    check("another configuration is refused", code == 2 and "run.seed" in err, messages(err))
    different = same_tables(place.folder / "local", copied(place, port, "plain"))
    check("its tables equal those on disk, bit for bit", not different, str(different))
    code, out, err = place.run("report s3://bucket/plain --out figures")
    page = place.folder / "figures/index.html"
    check("a report from there", code == 0 and page.stat().st_size > 10_000, messages(err))
    try:
        import duckdb, pandas, polars  # noqa: F401
    except ImportError:
        print("skip  other readers: duckdb, pandas or polars are not installed")
        return
    reader = [sys.executable, HERE.parent / "python/read_tables.py", place.folder / "copy-plain"]
    found = subprocess.run(reader, capture_output=True, text=True)
    check("DuckDB, Polars and pandas read them", found.returncode == 0, found.stdout + found.stderr)


def stops(place, port):
    """SIGTERM and SIGKILL at times spread over a run; then to the end."""
    command = "run tiny.toml --output s3://bucket/stopped"
    codes = []
    for index, delay in enumerate([0.4, 0.5, 0.6, 0.8, 1.0, 1.3]):
        process = place.start(command)
        time.sleep(delay)
        process.send_signal(signal.SIGTERM if index % 2 else signal.SIGKILL)
        codes.append(place.end(process)[0])
        if codes[-1] == 0:
            break
    code, _, err = place.run(command)
    check(f"stopped and continued (exit codes {codes}, then {code})", code == 0 and any(codes), messages(err))
    different = same_tables(place.folder / "local", copied(place, port, "stopped"))
    check("with the same tables, bit for bit", not different, str(different))


def disturbed(place, port, proxy):
    quick = dict(AWS_ENDPOINT_URL=proxy.url, AWS_READ_TIMEOUT="1 second", HESSPEC_LOG="info")
    proxy.every = 7
    begin = time.monotonic()
    code, _, err = place.run("run tiny.toml --output s3://bucket/disturbed", **quick)
    seconds, total = time.monotonic() - begin, sum(proxy.failures.values())
    check(f"{total} failures among {len(proxy.requests)} requests: done in one call, {seconds:.0f} s", code == 0, messages(err))
    check(f"of each kind: {proxy.failures}", all(proxy.failures.values()))
    different = same_tables(place.folder / "local", copied(place, port, "disturbed"))
    check("with the same tables, bit for bit", not different, str(different))


def out_of_order(place, port, proxy):
    """The storage goes away in the middle and comes back."""
    quick = dict(AWS_ENDPOINT_URL=proxy.url, AWS_READ_TIMEOUT="1 second", AWS_MAX_ATTEMPTS="3", HESSPEC_LOG="info")
    for mode in ["unavailable", "reset", "hang"]:
        command = f"run tiny.toml --output s3://bucket/gone-{mode}"
        proxy.every, proxy.modes = 0, [mode]
        process = place.start(command, **quick)
        seen = len(proxy.requests)
        while len(proxy.requests) < seen + 40 and process.poll() is None:
            time.sleep(0.01)
        proxy.every = 1
        begin = time.monotonic()
        code, _, err = place.end(process)
        seconds = time.monotonic() - begin
        said = messages(err)
        check(f"{mode} from then on: exit 5 after {seconds:.1f} s", code == 5 and seconds < 60, f"exit {code}: {said}")
        named = f"s3://bucket/gone-{mode}" in said and "cannot " in said
        check("the message names URL and operation", named, said)
        proxy.every = 0
        code, _, err = place.run(command, **quick)
        check("the next call goes on", code == 0, messages(err))
        different = same_tables(place.folder / "local", copied(place, port, f"gone-{mode}"))
        check("with the same tables, bit for bit", not different, str(different))


def doctor(place, proxy):
    proxy.every, proxy.modes = 0, ["lost"]
    seen = len(proxy.requests)
    code, out, err = place.run("doctor --output s3://bucket/doctor", AWS_ENDPOINT_URL=proxy.url)
    check("doctor: this storage can hold a run", code == 0 and "refused" in out, out + messages(err))
    requests = proxy.requests[seen:]
    check("a large object goes in parts", sum("partNumber=" in request for request in requests) >= 2, str(requests))
    # every answer to the creation of an object is lost, once
    proxy.every = 2
    code, out, err = place.run("doctor --output s3://bucket/doctor", AWS_ENDPOINT_URL=proxy.url)
    check("doctor: also where every other answer is lost", code == 0, out + messages(err))
    proxy.every = 0


def bucket(port):
    return pyarrow.fs.S3FileSystem(
        access_key=KEY, secret_key=SECRET, session_token=TOKEN, endpoint_override=f"127.0.0.1:{port}", scheme="http", region="us-east-1"
    )


def upload(port, name, content):
    with bucket(port).open_output_stream(f"bucket/{name}") as file:
        file.write(content)


def tokens_and_weights(place, port, proxy):
    """A run whose tokens and weights lie in the bucket equals the one on disk."""
    tokens = (place.folder / "train.bin").read_bytes()
    for number, start in enumerate(range(0, len(tokens), 150)):
        upload(port, f"data/train_{number:06}.bin", tokens[start : start + 150])
    code, _, err = place.run("weights export tiny.toml s3://bucket/data/ckpt.pt")
    check("weights are exported into the bucket", code == 0, messages(err))
    there = "--set data.tokens.path=s3://bucket/data/*.bin --set model.gpt2.weights=s3://bucket/data/ckpt.pt"
    quick = dict(AWS_ENDPOINT_URL=proxy.url, AWS_READ_TIMEOUT="1 second", HESSPEC_LOG="info")
    for every in [0, 5]:
        proxy.every, proxy.modes = every, ["unavailable", "reset", "lost", "cut"]
        seen = len(proxy.requests)
        code, _, err = place.run(f"run tiny.toml {there} --output remote-{every}", **quick)
        asked = [request for request in proxy.requests[seen:] if request.startswith("GET") and ".bin" in request]
        check(f"tokens and weights from there, every {every}th request fails: {len(asked)} reads", code == 0, messages(err))
        different = same_tables(place.folder / "local", place.folder / f"remote-{every}")
        check("with the same tables, bit for bit", not different, str(different))
        # of each of the three shards a header before the run's name is claimed, one for its shape (batch.tokens is not set), then
        # a header and a block: later sweeps read nothing
        check("every block is read once", every > 0 or len(asked) <= 12, "\n".join(asked))
    proxy.every = 0
    upload(port, "data/train_000001.bin", tokens[150:299])
    code, _, err = place.run(f"check tiny.toml {there}")
    check("an odd number of bytes is found", code == 2 and "train_000001.bin" in err and "149 bytes" in err, messages(err))


def corpus(place, port, proxy):
    """Text in the bucket, the storage going away in the middle."""
    lines = b"".join(b'{"text": "document %d, %d words of the same"}\n' % (n, n * n) for n in range(600_000))
    upload(port, "corpus/a.jsonl", lines)
    upload(port, "corpus/b.jsonl", lines[: len(lines) // 2].rsplit(b"\n", 1)[0])
    prepare = "data prepare --tokenizer byte --shard-tokens 1000000 s3://bucket/corpus/*.jsonl --output"
    code, _, err = place.run(f"{prepare} whole")
    check(f"{len(lines) / 1e6:.0f} MB of text from the bucket to tokens", code == 0, messages(err))
    quick = dict(AWS_ENDPOINT_URL=proxy.url, AWS_READ_TIMEOUT="1 second", AWS_MAX_ATTEMPTS="2", HESSPEC_LOG="info")
    proxy.every, proxy.modes = 0, ["unavailable"]
    process = place.start(f"{prepare} parts", **quick)
    while not (place.folder / "parts/train_000003.bin").exists() and process.poll() is None:
        time.sleep(0.002)
    proxy.every = 1
    code, _, err = place.end(process)
    said = messages(err)
    check("the storage goes away: exit 5 with the object's name", code == 5 and "s3://bucket/corpus/" in said, f"exit {code}: {said}")
    kept = len(list((place.folder / "parts").glob("train_*.bin")))
    proxy.every, proxy.modes = 4, ["unavailable", "cut", "lost"]
    code, _, err = place.run(f"{prepare} parts", **{**quick, "AWS_MAX_ATTEMPTS": "5"})
    check(f"{kept} shards are kept; the next call goes on, every fourth request failing", code == 0 and kept >= 4, messages(err))
    proxy.every = 0
    names = sorted(path.name for path in (place.folder / "whole").iterdir())
    same = all((place.folder / "whole" / n).read_bytes() == (place.folder / "parts" / n).read_bytes() for n in names)
    check(f"with the same bytes in {len(names)} files", same and len(names) == len(list((place.folder / "parts").iterdir())))
    # the same server, as one that knows nothing of buckets
    web = f"http://127.0.0.1:{port}/bucket/corpus"
    sources = f"{web}/a.jsonl {web}/b.jsonl"
    code, _, err = place.run(f"data prepare --tokenizer byte --shard-tokens 1000000 --output web {sources}")
    different = [n for n in names if n != "meta.json" and (place.folder / "web" / n).read_bytes() != (place.folder / "whole" / n).read_bytes()] if code == 0 else []
    check("the same by http://", code == 0 and not different, messages(err) + str(different))
    code, _, err = place.run(f"data prepare --tokenizer byte --output none {web}/none.jsonl")
    check("a page that is not there", code == 2 and "no such object" in err, messages(err))
    code, _, err = place.run(f"data prepare --tokenizer byte --output none http://192.0.2.1/a.jsonl")
    check("http:// from another machine is refused", code == 2 and "https://" in err, messages(err))


def refusals(place):
    code, out, err = place.run("run tiny.toml --output s3://bucket/x", AWS_ENDPOINT_URL="http://192.0.2.1:9000")
    check("http:// to another machine is refused", code == 2 and "AWS_ALLOW_HTTP" in err, messages(err))
    code, out, err = place.run(f"run tiny.toml --output s3://{KEY}:{SECRET}@bucket/x")
    check("credentials in a URL are refused", code == 2 and "AWS_SECRET_ACCESS_KEY" in err, messages(err))
    code, out, err = place.run("run tiny.toml --output s3://bucket/x", AWS_ACCESS_KEY_ID=None)
    check("no credentials are said to be none", code == 3 and "AWS_ACCESS_KEY_ID" in err, messages(err))
    code, out, err = place.run("run tiny.toml --output s3://nobucket/x")
    check("a bucket that is not there is a storage error", code == 5 and "nobucket" in err, messages(err))


def secrets(place):
    everything = "".join(place.said)
    check(f"no secret in {len(everything)} bytes of logs at level trace", SECRET not in everything and TOKEN not in everything)
    check("and no access key", KEY not in everything, next((l for l in everything.splitlines() if KEY in l), "")[:300])
    stored = [path for path in place.folder.rglob("*") if path.is_file()]
    found = [str(path) for path in stored if any(s.encode() in path.read_bytes() for s in (SECRET, TOKEN, KEY))]
    check(f"nor in {len(stored)} stored files", not found, str(found))


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    server, port = start_server()
    try:
        with tempfile.TemporaryDirectory() as folder:
            place = Place(os.path.abspath(sys.argv[1]), pathlib.Path(folder), f"http://127.0.0.1:{port}")
            proxy = FaultyProxy("127.0.0.1", port)
            plain_use(place, port)
            stops(place, port)
            disturbed(place, port, proxy)
            out_of_order(place, port, proxy)
            doctor(place, proxy)
            tokens_and_weights(place, port, proxy)
            corpus(place, port, proxy)
            refusals(place)
            secrets(place)
    finally:
        server.terminate()
        server.wait()
    print(f"{checks} checks, {failures} failed")
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
