#!/usr/bin/env python3
"""Secrets that a storage server sees or says: presigned URLs, redirects, answers. They must work, and be nowhere afterwards.

    python secrets.py HESSPEC

HESSPEC is the program, built with --features s3,http. Needs nothing else; talks to a small server of its own on loopback.
Prints one line a check; exits 1 if one fails. What can be tried without a server is in tests/cli/secrets.rs.
"""

import http.server
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

SECRET = "hunter2SECRETsecret0123"
SIGNED = f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=id%2F{SECRET}&X-Amz-Signature={SECRET}"
CONFIG = """
[model.gpt2]
layers = 1
heads = 2
embedding = 8
mlp = 12
context = 6
vocabulary = 11
[data.tokens]
path = "train.bin"
[batch]
micro_batch = 2
[blocks]
full = false
include = ["*.c_fc.weight"]
[lanczos]
steps = 3
probes = 1
[distance]
grid_points = 2000
"""
checks = failures = 0


def check(name, holds, detail=""):
    global checks, failures
    checks += 1
    failures += not holds
    print(f"{'ok   ' if holds else 'FAIL '} {name}" + (f"\n      {detail}" if detail and not holds else ""), flush=True)


class Server:
    """Files behind a signature, and answers with secrets in them."""

    def __init__(self, files):
        self.files, self.requests = files, []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                path, _, query = self.path.partition("?")
                server.requests.append(f"{self.command} {path}")
                kind = path.split("/")[1]
                if kind == "signed":
                    self.signed(path[len("/signed/") :], query)
                elif kind == "redirect":
                    self.answer(302, b"", Location=f"/signed/{path[len('/redirect/'):]}?{SIGNED}")
                elif kind == "loop":
                    self.answer(302, b"", Location=f"/loop/x?token={SECRET}")
                elif kind == "xml":
                    self.answer(200, f"<List><{SECRET}></wrong>".encode())
                else:
                    code = "AccessDenied" if path.startswith("/403") else "ExpiredToken"
                    body = f"<Error><Code>{code}</Code><Message>{SECRET}</Message><Token>{SECRET}</Token>{self.path}</Error>"
                    self.answer(int(kind) if kind.isdigit() else 403, body.encode())

            do_HEAD = do_PUT = do_POST = do_DELETE = do_PROPFIND = do_GET

            def signed(self, name, query):
                """A signature is good for one method, one path and one query."""
                content = server.files.get(name)
                if query != SIGNED or self.command != "GET" or content is None:
                    return self.answer(403, f"<Code>SignatureDoesNotMatch</Code>{SECRET}".encode())
                first, last = 0, len(content) - 1
                if "Range" in self.headers:
                    first, last = self.headers["Range"].removeprefix("bytes=").split("-")
                    first, last = int(first), min(int(last or len(content)), len(content) - 1)
                    return self.answer(206, content[first : last + 1], Content_Range=f"bytes {first}-{last}/{len(content)}")
                self.answer(200, content)

            def answer(self, status, body, **headers):
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response_only(status)
                for key, value in {"Content-Length": str(len(body)), "ETag": f'"{len(body)}"', **headers}.items():
                    self.send_header(key.replace("_", "-"), value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Place:
    def __init__(self, program, folder):
        self.program, self.folder, self.said = program, folder, ""
        (folder / "tiny.toml").write_text(CONFIG)
        tokens = [(at * 2654435761 >> 16) % 11 for at in range(80)]
        (folder / "train.bin").write_bytes(b"".join(n.to_bytes(2, "little") for n in tokens))

    def run(self, *arguments, **variables):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        own = dict(AWS_EC2_METADATA_DISABLED="true", AWS_MAX_ATTEMPTS="2", HESSPEC_LOG="trace")
        environment = {**kept, **own, **variables}
        begin = time.monotonic()
        done = subprocess.run([self.program, *arguments], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300)
        self.seconds = time.monotonic() - begin
        self.said += done.stdout + done.stderr
        return done.returncode, done.stdout, done.stderr


def last(text):
    return "\n".join(line for line in text.splitlines() if line.startswith("hesspec: "))


def presigned(place, server):
    """A presigned URL is a legal input: it works, and its query is neither said nor stored."""
    url = f"{server.url}/signed/folder%20a/train.bin?{SIGNED}"
    code, out, err = place.run("data", "inspect", url)
    check("a presigned file of tokens is inspected", code == 0 and "tokens       80" in out and "Signature=***" in out, last(err))
    sets = ["--set", f"data.tokens.path={url}"]
    code, _, err = place.run("run", "tiny.toml", "--output", "plain")
    check("the reference", code == 0, last(err))
    code, _, err = place.run("run", "tiny.toml", "--output", "signed", "--log-dir", "logs", *sets)
    check("a run on a presigned file of tokens", code == 0, last(err))
    code, out, err = place.run("run", "tiny.toml", "--output", "signed", *sets)
    check("goes on, that is, finds itself done", code == 0 and "already done" in out + err, last(err))
    tables = lambda folder: sorted(p.stat().st_size > 0 and p.relative_to(folder) for p in folder.glob("*/*/*.parquet"))
    same = tables(place.folder / "plain") == tables(place.folder / "signed")
    check("with the same tables", same)
    record = (place.folder / "signed/_runs/tiny/run.json").read_text()
    check("its record has the URL without its values", "X-Amz-Signature=***" in record, record)
    code, _, err = place.run("weights", "export", "tiny.toml", "w.safetensors")
    server.files["w.safetensors"] = (place.folder / "w.safetensors").read_bytes()
    weights = f"model.gpt2.weights={server.url}/signed/w.safetensors?{SIGNED}"
    code, _, err = place.run("check", "tiny.toml", "--set", weights)
    check("presigned weights", code == 0, last(err))
    lines = f"{server.url}/signed/a.jsonl?{SIGNED}"
    prepare = ["data", "prepare", "--tokenizer", "byte", "--output", "tokens"]
    code, _, err = place.run(*prepare, lines)
    check("presigned JSON lines are read as such", code == 0 and (place.folder / "tokens/train.bin").read_bytes() == b"a\0\n\0b\0", last(err))
    code, out, err = place.run(*prepare, lines)
    check("and found done", code == 0 and "already done" in out, last(err))
    code, _, err = place.run("data", "inspect", f"{server.url}/redirect/folder%20a/train.bin?token={SECRET}")
    check("a redirect to a presigned file is followed", code == 0, last(err))


def refused(place, server):
    """What a server refuses is asked for once, and its answer is not repeated."""
    for path, code, part in [("403", 5, "403 Forbidden (AccessDenied)"), ("400", 5, "400 Bad Request (ExpiredToken)"), ("404", 2, "no such object")]:
        for command in [["data", "inspect"], ["weights"], ["data", "prepare", "--tokenizer", "byte", "--output", "none"]]:
            url = f"{server.url}/{path}/x.safetensors?{SIGNED}"
            arguments = ["check", "tiny.toml", "--set", f"model.gpt2.weights={url}"] if command == ["weights"] else [*command, url]
            seen = len(server.requests)
            found, _, err = place.run(*arguments)
            asked = len(server.requests) - seen
            check(f"{path} to {' '.join(command[:2])}: exit {found}, {asked} request", found == code and part in err and asked == 1, last(err))
    found, _, err = place.run("data", "inspect", f"{server.url}/loop/x.bin?{SIGNED}")
    check(f"redirects without end: exit {found} after {place.seconds:.0f} s", found == 5 and "redirect" in err, last(err))
    found, _, err = place.run("data", "inspect", f"http://user:{SECRET}@127.0.0.1:{server.port}/x.bin")
    check("a user in the URL is refused", found == 2 and "***@127.0.0.1" in err, last(err))


def buckets(place, server):
    keys = dict(AWS_ACCESS_KEY_ID="id", AWS_SECRET_ACCESS_KEY=SECRET, AWS_SESSION_TOKEN=SECRET, AWS_REGION="us-east-1")
    for path, part in [("403", "403 Forbidden (AccessDenied)"), ("400", "400 Bad Request"), ("500", "500 Internal Server Error"), ("xml", "not what such storage answers")]:
        for arguments in [["run", "tiny.toml", "--output", "s3://bucket/x", "--log-dir", "logs"], ["report", "s3://bucket/x"]]:
            code, _, err = place.run(*arguments, AWS_ENDPOINT_URL=f"{server.url}/{path}", **keys)
            wanted = part if path != "xml" or arguments[0] == "report" else ""
            check(f"{path} from a bucket to {arguments[0]}: exit {code}", code == 5 and wanted in err, last(err))
    for endpoint in [f"http://id:{SECRET}@127.0.0.1:{server.port}", f"{server.url}?token={SECRET}"]:
        code, _, err = place.run("run", "tiny.toml", "--output", "s3://bucket/x", AWS_ENDPOINT_URL=endpoint, **keys)
        check("an endpoint with a secret is refused", code == 2 and "AWS_ENDPOINT_URL" in err and "***" in err, last(err))


def search(place):
    check(f"no secret in {len(place.said)} characters that were said", SECRET not in place.said, next((l for l in place.said.splitlines() if SECRET in l), "")[:400])
    stored = [path for path in place.folder.rglob("*") if path.is_file()]
    found = [str(path) for path in stored if SECRET.encode() in path.read_bytes() or SECRET in str(path)]
    check(f"nor in {len(stored)} stored files", len(stored) > 20 and not found, str(found))


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        place = Place(os.path.abspath(sys.argv[1]), pathlib.Path(folder))
        server = Server({"folder%20a/train.bin": (place.folder / "train.bin").read_bytes(), "a.jsonl": b'{"text": "a"}\n{"text": "b"}\n'})
        presigned(place, server)
        refused(place, server)
        buckets(place, server)
        search(place)
    print(f"{checks} checks, {failures} failed")
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
