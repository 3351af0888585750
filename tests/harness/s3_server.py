"""A server that speaks S3 more strictly than S3, and misbehaves where a test asks for it.

It recomputes every signature from the published description of AWS Signature Version 4, and takes no
request with an unsigned x-amz header, a body of another hash or length than its headers say, chunks, or
"Expect". Objects lie in memory. Runs in threads of the test's process.
"""

import base64
import collections
import datetime
import email.utils
import hashlib
import hmac
import http.server
import re
import socket
import ssl
import struct
import threading
import time
import urllib.parse
import xml.etree.ElementTree
from xml.sax.saxutils import escape

from harness.web_server import Server

ACCESS_KEY = "AKIDSTRICT"
SECRET_KEY = "strict/secret+key"
MINIMUM_PART = 5 << 20

Request = collections.namedtuple("Request", "method bucket key query headers body")


class Fault:
    """What to do to the next `times` requests that `matches` says yes to.

    Actions: "status" (with `status`, `code`, `headers`), "reset" before anything is done, "lost" (done,
    then reset), "half" (half of the body, then reset), "flip" (a bit of the answer's body), "damage" (a
    bit of the request's body, before it is checked), "error200" (a 200 whose body is an error), "slow".
    """

    def __init__(self, action, matches=lambda request: True, times=1, status=500,
                 code="InternalError", headers=None):
        self.action, self.matches, self.times = action, matches, times
        self.status, self.code, self.headers = status, code, headers or {}


class Refused(Exception):
    def __init__(self, status, code, message=""):
        super().__init__(code)
        self.status, self.code, self.message = status, code, message or code


def encoded(text, safe="-_.~"):
    return urllib.parse.quote(text, safe=safe)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def flipped(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1:]


def signature(secret, scope, date, canonical):
    text = "\n".join(["AWS4-HMAC-SHA256", date, "/".join(scope), sha256(canonical.encode())])
    key = ("AWS4" + secret).encode()
    for part in scope:
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


class S3Server:
    """`url` is its endpoint. With `tls`, an (certificate, key) of files, it speaks https."""

    page = 7  # entries of a list's page

    def __init__(self, tls=None, checksums=True):
        self.checksums = checksums  # whether x-amz-checksum-sha256 is known
        self.clock = datetime.timedelta()  # by how much its clock is ahead
        self.buckets = {"bucket": {}}
        self.uploads = {}
        self.faults = []
        self.requests = []
        self.lock = threading.Lock()
        owner = self

        class Handler(_Handler):
            server_of_test = owner

        self._server = Server(("127.0.0.1", 0), Handler)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._server.server_address[1]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}"
        self.environment = {
            "AWS_ENDPOINT_URL_S3": self.url, "AWS_REGION": "eu-test-1",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def objects(self):
        return self.buckets["bucket"]

    def count(self, method, matches=lambda request: True):
        return sum(r.method == method and matches(r) for r in self.requests)

    def now(self):
        return datetime.datetime.now(datetime.timezone.utc) + self.clock

    def take_fault(self, request):
        with self.lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault.times > 0 and fault.matches(request):
                    fault.times -= 1
                    return fault
        return None


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of_test = None

    def log_message(self, *arguments):
        pass

    def handle_any(self):
        store = self.server_of_test
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, _, query = self.path.partition("?")
        _, bucket, *rest = urllib.parse.unquote(path).split("/", 2)
        pairs = [tuple(map(urllib.parse.unquote, (n, v))) for n, _, v in
                 (pair.partition("=") for pair in query.split("&") if pair)]
        request = Request(self.command, bucket, rest[0] if rest else "", dict(pairs),
                          {n.lower(): v for n, v in self.headers.items()}, body)
        fault = store.take_fault(request)
        action = fault.action if fault else ""
        if action == "reset":
            return self.reset()
        if action == "damage":
            request = request._replace(body=flipped(body))
        if action == "status":
            return self.answer_error(Refused(fault.status, fault.code), fault.headers)
        if action == "error200":
            return self.answer(200, self.error_body(Refused(200, fault.code)))
        try:
            self.check(request, path, pairs)
            status, headers, content = self.perform(store, request)
        except Refused as refused:
            return self.answer_error(refused)
        if action == "lost":
            return self.reset()
        return self.answer(status, content, headers, action)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

    def reset(self):
        self.close_connection = True
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()

    def error_body(self, refused):
        return (f"<Error><Code>{refused.code}</Code><Message>{escape(refused.message)}</Message>"
                "</Error>").encode()

    def answer_error(self, refused, headers=None):
        self.answer(refused.status, self.error_body(refused), headers or {})

    def date_time_string(self, timestamp=None):
        return email.utils.format_datetime(self.server_of_test.now(), usegmt=True)

    def answer(self, status, content=b"", headers=None, action=""):
        self.send_response(status)
        headers = {"Content-Length": str(len(content)), **(headers or {})}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if action == "half":
            self.wfile.write(content[:len(content) // 2])
            self.wfile.flush()
            self.reset()
        elif action == "slow":
            for start in range(0, len(content), max(1, len(content) // 10)):
                self.wfile.write(content[start:start + max(1, len(content) // 10)])
                self.wfile.flush()
                time.sleep(0.05)
        else:
            self.wfile.write(flipped(content) if action == "flip" else content)

    # ---- Signatures ----

    def check(self, request, path, pairs):
        headers = request.headers
        if "expect" in headers or "transfer-encoding" in headers:
            raise Refused(411, "MissingContentLength")
        if request.method in ("PUT", "POST") and "content-length" not in headers:
            raise Refused(411, "MissingContentLength")
        is_presigned = "X-Amz-Signature" in request.query
        if is_presigned:
            given = request.query["X-Amz-Signature"]
            access_key, *scope = request.query["X-Amz-Credential"].split("/")
            signed = request.query["X-Amz-SignedHeaders"].split(";")
            date = request.query["X-Amz-Date"]
            payload = "UNSIGNED-PAYLOAD"
            pairs = [pair for pair in pairs if pair[0] != "X-Amz-Signature"]
        else:
            match = re.fullmatch(
                r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/(s3)/(aws4_request), ?"
                r"SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})", headers.get("authorization", ""))
            if not match:
                raise Refused(403, "AccessDenied")
            access_key, *scope, names, given = match.groups()
            signed, date = names.split(";"), headers.get("x-amz-date", "")
            payload = headers.get("x-amz-content-sha256", "")
            unsigned = [name for name in headers if name not in signed and
                        (name.startswith("x-amz-") or name == "host")]
            if unsigned or not payload:
                raise Refused(403, "AccessDenied", f"not signed: {unsigned}")
        if access_key != ACCESS_KEY:
            raise Refused(403, "InvalidAccessKeyId")
        self.check_date(request, date, is_presigned)
        canonical = "\n".join([
            request.method,
            "/".join(encoded(urllib.parse.unquote(part)) for part in path.split("/")),
            "&".join(f"{n}={v}" for n, v in sorted((encoded(n), encoded(v)) for n, v in pairs)),
            "".join(f"{name}:{' '.join(headers.get(name, '').split())}\n" for name in signed),
            ";".join(signed), payload])
        if scope[1] != "eu-test-1":
            raise Refused(400, "AuthorizationHeaderMalformed")
        if not hmac.compare_digest(given, signature(SECRET_KEY, scope, date, canonical)):
            raise Refused(403, "SignatureDoesNotMatch")
        if not is_presigned and payload != sha256(request.body):
            raise Refused(400, "XAmzContentSHA256Mismatch")

    def check_date(self, request, date, is_presigned):
        try:
            time_signed = datetime.datetime.strptime(date + "+0000", "%Y%m%dT%H%M%SZ%z")
        except ValueError as error:
            raise Refused(403, "AccessDenied", "bad date") from error
        age = self.server_of_test.now() - time_signed
        if is_presigned:
            if age.total_seconds() > int(request.query["X-Amz-Expires"]):
                raise Refused(403, "AccessDenied", "Request has expired")
        elif abs(age) > datetime.timedelta(minutes=15):
            raise Refused(403, "RequestTimeTooSkewed")

    # ---- Operations ----

    def perform(self, store, request):
        if request.bucket not in store.buckets:
            raise Refused(404, "NoSuchBucket")
        objects = store.buckets[request.bucket]
        with store.lock:
            if not request.key:
                return self.list(store, objects, request)
            if "uploads" in request.query or "uploadId" in request.query:
                return self.multipart(store, objects, request)
            return getattr(self, "object_" + request.method.lower())(store, objects, request)

    def check_sum(self, store, request):
        given = request.headers.get("x-amz-checksum-sha256")
        found = base64.b64encode(hashlib.sha256(request.body).digest()).decode()
        if store.checksums and given is not None and given != found:
            raise Refused(400, "BadDigest")
        return found

    def object_put(self, store, objects, request):
        self.check_sum(store, request)
        if request.headers.get("if-none-match") == "*" and request.key in objects:
            raise Refused(412, "PreconditionFailed")
        objects[request.key] = (request.body, hashlib.md5(request.body).hexdigest())
        return 200, {"ETag": f'"{objects[request.key][1]}"'}, b""

    def object_get(self, store, objects, request):
        if request.key not in objects:
            raise Refused(404, "NoSuchKey")
        content, etag = objects[request.key]
        if request.headers.get("if-match", f'"{etag}"') != f'"{etag}"':
            raise Refused(412, "PreconditionFailed")
        headers = {"ETag": f'"{etag}"'}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", ""))
        if not wanted:
            if store.checksums and request.headers.get("x-amz-checksum-mode") and "-" not in etag:
                digest = hashlib.sha256(content).digest()
                headers["x-amz-checksum-sha256"] = base64.b64encode(digest).decode()
            return 200, headers, content
        first, last = int(wanted[1]), min(int(wanted[2]), len(content) - 1)
        if first >= len(content):
            raise Refused(416, "InvalidRange")
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return 206, headers, content[first:last + 1]

    object_head = object_get

    def object_delete(self, store, objects, request):
        objects.pop(request.key, None)
        return 204, {}, b""

    def list(self, store, objects, request):
        prefix = request.query.get("prefix", "")
        if "uploads" in request.query:
            return self.list_uploads(store, request, prefix)
        if request.method != "GET" or request.query.get("encoding-type") != "url":
            raise Refused(501, "NotImplemented")
        after = base64.b64decode(request.query.get("continuation-token", "")).decode()
        keys = sorted((key for key in objects if key.startswith(prefix) and key > after),
                      key=lambda key: key.encode())
        page, more = keys[:store.page], len(keys) > store.page
        entries = "".join(
            f"<Contents><Key>{urllib.parse.quote_plus(key, safe='/')}</Key>"
            f"<ETag>&quot;{objects[key][1]}&quot;</ETag><Size>{len(objects[key][0])}</Size>"
            "</Contents>" for key in page)
        token = base64.b64encode(page[-1].encode()).decode() if more else ""
        return 200, {}, (
            f"<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>{str(more).lower()}"
            f"</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>{entries}"
            "</ListBucketResult>").encode()

    def list_uploads(self, store, request, prefix):
        after = (request.query.get("key-marker", ""), request.query.get("upload-id-marker", ""))
        found = sorted((key, name) for name, (key, _) in store.uploads.items()
                       if key.startswith(prefix) and (key, name) > after)
        page, more = found[:2], len(found) > 2
        entries = "".join(f"<Upload><Key>{escape(key)}</Key><UploadId>{name}</UploadId></Upload>"
                          for key, name in page)
        last = (f"<NextKeyMarker>{escape(page[-1][0])}</NextKeyMarker><NextUploadIdMarker>"
                f"{page[-1][1]}</NextUploadIdMarker>") if more else ""
        return 200, {}, (
            f"<ListMultipartUploadsResult><IsTruncated>"
            f"{str(more).lower()}</IsTruncated>{last}{entries}</ListMultipartUploadsResult>").encode()

    def multipart(self, store, objects, request):
        if request.method == "POST" and "uploads" in request.query:
            name = f"upload-{len(store.requests)}"
            store.uploads[name] = (request.key, {})
            headers = {"x-amz-checksum-algorithm": "SHA256"} if store.checksums else {}
            return 200, headers, (
                f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId>"
                "</InitiateMultipartUploadResult>").encode()
        name = request.query["uploadId"]
        if name not in store.uploads or store.uploads[name][0] != request.key:
            raise Refused(404, "NoSuchUpload")
        parts = store.uploads[name][1]
        if request.method == "PUT":
            checksum = self.check_sum(store, request)
            if store.checksums and "x-amz-checksum-sha256" not in request.headers:
                raise Refused(400, "InvalidRequest", "the upload has checksums, the part none")
            parts[int(request.query["partNumber"])] = (request.body, checksum)
            return 200, {"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'}, b""
        if request.method == "POST":
            self.complete(store, objects, request, parts)
        del store.uploads[name]
        if request.method == "DELETE":
            return 204, {}, b""
        return 200, {}, (
            "<CompleteMultipartUploadResult><ETag>&quot;"
            f"{objects[request.key][1]}&quot;</ETag></CompleteMultipartUploadResult>").encode()

    def complete(self, store, objects, request, parts):
        digests, content = b"", []
        listed = list(xml.etree.ElementTree.fromstring(request.body))
        for number, part in enumerate(listed, 1):
            fields = {field.tag.rpartition("}")[2]: field.text for field in part}
            body, checksum = parts.get(int(fields["PartNumber"]), (None, None))
            if int(fields["PartNumber"]) != number or body is None:
                raise Refused(400, "InvalidPart")
            digest = hashlib.md5(body)
            if fields["ETag"].strip('"') != digest.hexdigest():
                raise Refused(400, "InvalidPart")
            if store.checksums and fields.get("ChecksumSHA256") != checksum:
                raise Refused(400, "InvalidPart")
            if number < len(listed) and len(body) < MINIMUM_PART:
                raise Refused(400, "EntityTooSmall")
            digests += digest.digest()
            content.append(body)
        objects[request.key] = (b"".join(content),
                                f"{hashlib.md5(digests).hexdigest()}-{len(listed)}")
