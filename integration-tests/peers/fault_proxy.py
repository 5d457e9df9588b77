"""An HTTP proxy on a loopback port in front of a server on another, which does to requests what it is told; prints its port.

usage: fault_proxy.py PORT_OF_THE_SERVER

PUT /_faults takes a list of rules, each {"method", "path", "query", "after", "times", "fault", ...}: `method` and parts of path and query
that must be there, `after` that many matches are let through, `times` it happens (without: always). `fault` is one of
  status        answers `status` with `code` as S3 does, without asking the server
  cut_request   closes the connection when half of the body has come in
  cut_answer    asks the server, answers half of the body and closes the connection
  lost_answer   asks the server and closes the connection
  flip          changes one bit in the middle of the answer's body
  slow          waits `seconds` first
  stall         holds the request until the rules are replaced
GET /_log is the list of requests so far: {"method", "path", "query", "fault", "status"}, the ones under way without a status.
"""

import http.client
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

lock = threading.Lock()
rules, log = [], []
released = threading.Event()


class Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def answer(self, status, body, headers=()):
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if not any(name.lower() == "content-length" for name, _ in headers):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_any(self):
        global released
        length = int(self.headers.get("Content-Length") or 0)
        path, _, query = self.path.partition("?")
        if path == "/_faults":
            new = json.loads(self.rfile.read(length))
            with lock:
                rules[:] = new
                released.set()
                released = threading.Event()
            return self.answer(200, b"{}")
        if path == "/_log":
            with lock:
                return self.answer(200, json.dumps(log).encode())
        entry = {"method": self.command, "path": path, "query": query, "fault": None, "status": None}
        with lock:
            rule = self.find(path, query)
            entry["fault"] = rule and rule["fault"]
            log.append(entry)
            hold = released
        fault = entry["fault"]
        if fault == "cut_request":
            self.rfile.read(length // 2)
            return self.cut()
        body = self.rfile.read(length)
        if fault == "status":
            entry["status"] = rule["status"]
            text = f"<?xml version='1.0'?><Error><Code>{rule['code']}</Code><Message>injected</Message></Error>"
            return self.answer(rule["status"], text.encode(), [("Content-Type", "application/xml")])
        if fault == "slow":
            time.sleep(rule["seconds"])
        if fault == "stall":
            hold.wait()
        server = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("connection", "transfer-encoding")}
        server.request(self.command, self.path, body=body or None, headers=headers)
        response = server.getresponse()
        content = response.read()
        server.close()
        kept = [(n, v) for n, v in response.getheaders() if n.lower() not in ("connection", "transfer-encoding", "keep-alive")]
        if fault == "lost_answer":
            return self.cut()
        if fault == "cut_answer":
            kept = [(n, v) for n, v in kept if n.lower() != "content-length"] + [("Content-Length", str(len(content)))]
            self.answer(response.status, content[: len(content) // 2], kept)
            return self.cut()
        if fault == "flip" and content:
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        entry["status"] = response.status
        self.answer(response.status, content, kept)

    def find(self, path, query):
        for rule in rules:
            if rule.get("method", self.command) != self.command or rule.get("path", "") not in path or rule.get("query", "") not in query:
                continue
            if rule.get("after", 0) > 0:
                rule["after"] -= 1
                continue
            if rule.get("times", 1) > 0:
                if "times" in rule:
                    rule["times"] -= 1
                return rule
        return None

    def cut(self):
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(2)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any


def main():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
