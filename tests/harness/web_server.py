"""A plain web server over TLS that serves ranges of bytes, and misbehaves where a test asks for it."""

import hashlib
import http.server
import re
import socket
import ssl
import struct
import sys
import threading
import urllib.parse


class Server(http.server.ThreadingHTTPServer):
    """Says nothing of clients that hang up, as those under test do."""

    daemon_threads = True

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class WebServer:
    """Serves `files`, by path. `faults`: a list of actions for the next GETs: an HTTP status, "half",
    "reset" or "change" (the file is another one from then on)."""

    def __init__(self, certificate, key):
        self.files = {}
        self.faults = []
        self.requests = []
        self.redirects = {}
        self.has_ranges = True
        self.has_etags = True
        owner = self

        class Handler(_Handler):
            web = owner

        self._server = Server(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True,
                                                  do_handshake_on_connect=False)
        self.port = self._server.server_address[1]
        self.url = f"https://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web = None

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.serve()

    def do_GET(self):
        self.serve()

    def serve(self):
        web, path = self.web, urllib.parse.unquote(self.path).lstrip("/")
        web.requests.append((self.command, path, {n.lower(): v for n, v in self.headers.items()}))
        fault = web.faults.pop(0) if web.faults and self.command == "GET" else None
        if fault == "reset":
            self.connection.close()
            self.close_connection = True
            return None
        if isinstance(fault, int):
            return self.answer(fault, b"")
        if path in web.redirects:
            return self.answer(302, b"", {"Location": web.redirects[path]})
        if path not in web.files:
            return self.answer(404, b"")
        if fault == "change":
            web.files[path] = web.files[path][::-1]
        content = web.files[path]
        etag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
        headers = {"ETag": etag} if web.has_etags else {}
        if self.headers.get("If-Match", etag) != etag:
            return self.answer(412, b"")
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not wanted or not web.has_ranges:
            return self.answer(200, content, headers, fault)
        first, last = int(wanted[1]), min(int(wanted[2]), len(content) - 1)
        if first >= len(content):
            return self.answer(416, b"")
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return self.answer(206, content[first:last + 1], headers, fault)

    def answer(self, status, content, headers=None, fault=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "half":
            self.wfile.write(content[:len(content) // 2])
            self.wfile.flush()
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
            self.close_connection = True
            return
        self.wfile.write(content)
