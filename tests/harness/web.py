"""A web server and a hub of models on loopback: with ranges, and with faults on demand."""

import hashlib
import http.server
import json
import pathlib
import re
import ssl
import threading
import urllib.parse


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        try:
            self.server.owner.answer(self)
        except OSError:  # the client stopped
            self.close_connection = True

    do_HEAD = do_GET

    def log_message(self, *arguments):
        pass


class FileServer:
    """Serves `files`, bytes by absolute path. A context manager.

    `on_range`, where set, is called with path, first byte and length before the bytes go out; what it
    returns replaces them, and fewer bytes than announced end the connection.
    """

    def __init__(self, tls=None):
        self.files = {}
        self.requests = []  # (method, path, headers)
        self.bytes_served = 0
        self.on_range = None
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.origin = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add_directory(self, directory, prefix):
        directory = pathlib.Path(directory)
        for file in directory.rglob("*"):
            if file.is_file():
                self.files[f"{prefix}/{file.relative_to(directory)}"] = file.read_bytes()

    def answer(self, request):
        """One request; subclasses answer some themselves."""
        path = urllib.parse.unquote(urllib.parse.urlsplit(request.path).path)
        with self._lock:
            self.requests.append((request.command, path, dict(request.headers)))
        self.send_file(request, path)

    def send(self, request, status, body=b"", **headers):
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)

    def send_file(self, request, path):
        content = self.files.get(path)
        if content is None:
            self.send(request, 404)
            return
        etag = '"' + hashlib.sha1(content).hexdigest() + '"'
        wanted = request.headers.get("If-Match")
        if wanted and wanted != etag:
            self.send(request, 412, ETag=etag)
            return
        if request.command == "HEAD":
            request.send_response(200)
            request.send_header("ETag", etag)
            request.send_header("Accept-Ranges", "bytes")
            request.send_header("Content-Length", str(len(content)))
            request.end_headers()
            return
        first, last = 0, len(content) - 1
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if found:
            first = int(found[1])
            last = min(last, int(found[2] or last))
        body = content[first:last + 1]
        request.send_response(206 if found else 200)
        request.send_header("ETag", etag)
        if found:
            request.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        sent = self.on_range(path, first, body) if self.on_range else body
        with self._lock:
            self.bytes_served += len(sent)
        request.wfile.write(sent)
        if len(sent) < len(body):
            request.wfile.flush()
            request.close_connection = True


class Hub(FileServer):
    """A hub of models: revisions, commits, gates, tokens; large files lie on `store`, another server.

    Written from the public description of the hub's HTTP interface.
    """

    def __init__(self, store, tokens=()):
        self.store = store
        self.tokens = set(tokens)
        self.models = {}    # "owner/name": {revision: commit}
        self.commits = {}   # commit: {file: bytes}
        self.gated = {}     # "owner/name": tokens whose users accepted the licence
        self.private = set()
        super().__init__()

    def commit(self, model, files, revision="main"):
        """A new commit of a model, to which `revision` then leads."""
        digest = hashlib.sha1(json.dumps(
            [model, {name: hashlib.sha1(data).hexdigest() for name, data in files.items()}],
            sort_keys=True).encode()).hexdigest()
        self.commits[digest] = dict(files)
        self.models.setdefault(model, {})[revision] = digest
        return digest

    def answer(self, request):
        path = urllib.parse.unquote(urllib.parse.urlsplit(request.path).path)
        with self._lock:
            self.requests.append((request.command, path, dict(request.headers)))
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path)
        resolve = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        cached = re.fullmatch(r"/api/resolve-cache/models/([^/]+/[^/]+)/([^/]+)/(.+)", path)
        asked = api or resolve or cached
        model = asked[1] if asked else ""
        if self._refuse(request, model):
            return
        revision = asked[2]
        commit = self.models[model].get(revision, revision)
        if commit not in self.commits:
            self.send(request, 404, X_Error_Code="RevisionNotFound")
        elif api:
            self._send_revision(request, model, commit)
        elif cached:
            self._send_cached(request, commit, cached[3])
        else:
            self._send_resolved(request, model, commit, resolve[3])

    def _refuse(self, request, model):
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.tokens:
            self.send(request, 401,
                      X_Error_Message="Invalid credentials in Authorization header")
        elif model not in self.models or (model in self.private and not token):
            self.send(request, 404 if token else 401, X_Error_Code="RepoNotFound")
        elif model in self.gated and token not in self.gated[model]:
            self.send(request, 403 if token else 401, X_Error_Code="GatedRepo")
        else:
            return False
        return True

    @staticmethod
    def _is_large(name):
        return name.endswith((".safetensors", ".bin"))

    def _send_revision(self, request, model, commit):
        siblings = []
        for name, data in self.commits[commit].items():
            entry = {"rfilename": name, "size": len(data), "blobId": _git_id(data)}
            if self._is_large(name):
                entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data),
                                "pointerSize": 135}
            siblings.append(entry)
        body = json.dumps({"id": model, "sha": commit, "siblings": siblings}).encode()
        self.send(request, 200, body, Content_Type="application/json")

    def _send_resolved(self, request, model, commit, name):
        data = self.commits[commit].get(name)
        if data is None:
            self.send(request, 404, X_Error_Code="EntryNotFound")
        elif self._is_large(name):
            sha256 = hashlib.sha256(data).hexdigest()
            self.store.files.setdefault(f"/blobs/{sha256}", data)
            self.send(request, 302, Location=f"{self.store.origin}/blobs/{sha256}?signature=x",
                      X_Repo_Commit=commit, X_Linked_Etag=f'"{sha256}"',
                      X_Linked_Size=str(len(data)))
        else:
            place = f"/api/resolve-cache/models/{model}/{commit}/{urllib.parse.quote(name)}"
            page = f"Temporary Redirect. Redirecting to {place}".encode()
            # Longer than the file too, where that is small.
            self.send(request, 307, page.ljust(min(len(data) + 1, 4096)), Location=place,
                      X_Repo_Commit=commit)

    def _send_cached(self, request, commit, name):
        self.files[f"/{commit}/{name}"] = self.commits[commit][name]
        self.send_file(request, f"/{commit}/{name}")


def _git_id(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
