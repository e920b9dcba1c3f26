"""An HTTP proxy on loopback that fails in every way a network does.

    proxy = FaultyProxy("127.0.0.1", port_of_the_server)
    proxy.every = 5       # every fifth request fails, in turn by each of `modes`; 0: none, 1: all
    proxy.modes = [...]

Modes: "unavailable" answers 503; "reset" closes the connection before the request arrives; "lost" lets the request
through and drops the answer, so that the client cannot know; "cut" ends the answer's body half-way; "hang" says nothing
for `hang` seconds.
"""

import http.client
import http.server
import itertools
import threading
import time

MODES = ["unavailable", "reset", "lost", "cut", "hang"]


class FaultyProxy:
    def __init__(self, host, port, hang=4.0):
        self.every, self.modes, self.hang = 0, MODES, hang
        self.failures = {mode: 0 for mode in MODES}
        self.requests = []
        self.number = itertools.count(1)
        self.lock = threading.Lock()
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def relay(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                mode = proxy.next_mode(f"{self.command} {self.path}")
                if mode == "unavailable":
                    self.answer(503, {}, b"<Error><Code>SlowDown</Code></Error>")
                elif mode in ("reset", "hang"):
                    if mode == "hang":
                        time.sleep(proxy.hang)
                    self.close_connection = True
                else:
                    server = http.client.HTTPConnection(host, port, timeout=60)
                    server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                    for name, value in self.headers.items():
                        server.putheader(name, value)
                    server.endheaders(body)
                    answer = server.getresponse()
                    content = answer.read()
                    headers = {n: v for n, v in answer.getheaders() if n.lower() not in ("transfer-encoding", "connection")}
                    server.close()
                    if mode == "lost":
                        self.close_connection = True
                    else:
                        self.answer(answer.status, headers, content, cut=mode == "cut")

            def answer(self, status, headers, content, cut=False):
                if self.command != "HEAD":
                    headers = {n: v for n, v in headers.items() if n.lower() != "content-length"}
                    headers["Content-Length"] = str(len(content))
                self.send_response_only(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content[: len(content) // 2] if cut else content)
                if cut:
                    self.close_connection = True

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = relay

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def next_mode(self, request):
        """What happens to this request; None: nothing."""
        with self.lock:
            number = next(self.number)
            self.requests.append(request)
            if self.every == 0 or number % self.every != 0:
                return None
            mode = self.modes[number // self.every % len(self.modes)]
            self.failures[mode] += 1
            return mode
