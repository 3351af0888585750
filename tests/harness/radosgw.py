"""Ceph's object gateway on loopback: a store that speaks S3 and was written by others.

Monitor, manager, one storage daemon in memory, and the gateway, each ended by its process id.
"""

import contextlib
import os
import pathlib
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
import uuid

from harness.programs import eventually, free_port

ACCESS_KEY = "AKIDTEQTEST"
SECRET_KEY = "secret/of+the=tests"

CONFIG = """[global]
fsid = {fsid}
keyring = {root}/keyring
mon host = [v2:127.0.0.1:{mon},v1:127.0.0.1:{mon_v1}]
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
osd pool default size = 1
osd pool default min size = 1
osd crush chooseleaf type = 0
osd pool default pg num = 8
mon allow pool size one = true
mon data avail crit = 1
mon max pg per osd = 1000
run dir = {root}/run
admin socket = {root}/run/$cluster-$name.asok
pid file = {root}/run/$name.pid
log file = {root}/run/$name.log
[mon.a]
mon data = {root}/mon
[osd]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
osd data = {root}/osd
osd objectstore = memstore
memstore device bytes = 6442450944
osd memory target = 939524096
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{http}
rgw data = {root}/rgw
"""

KEYS = {
    "mon.": ["mon", "allow *"],
    "client.admin": ["mon", "allow *", "osd", "allow *", "mgr", "allow *"],
    "osd.0": ["mon", "allow profile osd", "osd", "allow *", "mgr", "allow *"],
    "mgr.x": ["mon", "allow profile mgr", "osd", "allow *", "mds", "allow *"],
    "client.rgw": ["mon", "allow *", "osd", "allow *", "mgr", "allow *"],
}


class Radosgw:
    """A gateway with one user; `environment` leads the tools of S3 to it."""

    def __init__(self):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="teq-ceph-"))
        self.http_port = free_port()
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.environment = {
            "AWS_ENDPOINT_URL_S3": self.url, "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        self._processes = []
        try:
            self._start()
        except BaseException:
            for log in sorted(self.root.glob("*.out")):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}", flush=True)
            self.close()
            raise

    def close(self):
        for process in reversed(self._processes):
            if process.poll() is None:
                process.kill()
            process.wait()
        shutil.rmtree(self.root, ignore_errors=True)

    def _start(self):
        for name in ("mon", "mgr", "osd", "rgw", "run"):
            (self.root / name).mkdir()
        fsid, mon = str(uuid.uuid4()), free_port()
        mon_v1 = free_port()
        self._config = self.root / "ceph.conf"
        self._config.write_text(CONFIG.format(
            root=self.root, fsid=fsid, mon=mon, mon_v1=mon_v1, http=self.http_port))
        self._make_keys()
        self._run("monmaptool", "--create", "--clobber", "--addv", "a",
                  f"[v2:127.0.0.1:{mon},v1:127.0.0.1:{mon_v1}]", "--fsid", fsid, "monmap")
        self._run("ceph-mon", "-c", self._config, "--mkfs", "-i", "a", "--monmap", "monmap",
                  "--keyring", "keyring")
        self._daemon("ceph-mon", "-i", "a")
        eventually("the monitor answers", lambda: self._ceph("-s").returncode == 0, 60, 0.2)
        self._daemon("ceph-mgr", "-i", "x", "--mgr-data", self.root / "mgr")
        osd = str(uuid.uuid4())
        self._run("ceph", "-c", self._config, "osd", "new", osd)
        self._run("ceph-osd", "-c", self._config, "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._daemon("ceph-osd", "-i", "0")
        eventually("the storage daemon is up",
                   lambda: "1 up" in self._ceph("osd", "stat").stdout, 60, 0.2)
        self._run("radosgw-admin", "-c", self._config, "user", "create", "--uid=u",
                  "--display-name=u", f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}")
        self._daemon("radosgw", "-n", "client.rgw")
        eventually("the gateway answers", self._answers, 90, 0.2)

    def _make_keys(self):
        self._run("ceph-authtool", "--create-keyring", "keyring")
        for name, rights in KEYS.items():
            caps = [word for pair in zip(rights[::2], rights[1::2]) for word in ("--cap", *pair)]
            self._run("ceph-authtool", "keyring", "--gen-key", "-n", name, *caps)

    def _run(self, *command):
        with self._log("commands") as log:
            subprocess.run([str(word) for word in command], cwd=self.root, check=True, timeout=120,
                           stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)

    def _ceph(self, *words):
        return subprocess.run(
            ["ceph", "-c", str(self._config), "--connect-timeout", "2", *words], text=True,
            capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False)

    def _daemon(self, name, *words):
        with self._log(name) as log:
            self._processes.append(subprocess.Popen(
                [name, "-c", str(self._config), *map(str, words), "-f"], cwd=self.root,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT))

    def _log(self, name):
        return open(self.root / f"{name}.out", "ab")

    def _answers(self):
        with contextlib.suppress(OSError):
            try:
                urllib.request.urlopen(self.url, timeout=5).close()
            except urllib.error.HTTPError:
                pass
            return True
        return False
