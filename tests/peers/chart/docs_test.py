"""What deploy's pages say is so: their commands run, a backup under load is whole, no reason is missing."""

import os
import pathlib
import re
import subprocess
import tempfile
import threading
import unittest

import tools
from harness import programs
from harness.jobs import Workshop

DEPLOY = tools.ROOT / "deploy"
PAGES = sorted(DEPLOY.glob("*.md"))
OUTSIDE = ("# needs a cluster\n", "# needs a container builder\n")

# What looks like a reason and is a variable's name or a value of an enum.
NO_REASON = re.compile(r"AWS_|HF_|TEQ_|OMP_|OPENBLAS_|SSL_CERT_|XDG_|COMPRESSED_TENSORS$")


def blocks(page):
    """The page's shell blocks."""
    return re.findall(r"(?ms)^```sh\n(.*?)^```$", page.read_text())


def reasons():
    """Every reason that the sources give an error."""
    found = set()
    for room in ("proto/spec", "client", "server", "worker"):
        for source in [*(tools.ROOT / room).rglob("*.cc"), *(tools.ROOT / room).rglob("*.h")]:
            text = source.read_text()
            found |= set(re.findall(r'"([A-Z]+(?:_[A-Z0-9]+)+)"', text))
            found |= set(re.findall(r'\bError\(\s*[\w:.]+,\s*"([A-Z][A-Z0-9_]*)"', text))  # of one word too
    return {reason for reason in found if not NO_REASON.match(reason)}


class PagesTest(programs.HouseTest):
    def run_block(self, text, **variables):
        helm, kubectl = (tools.unpacked(tools.LAYERS["4"]) / part for part in ("helm", "kubectl"))
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text], cwd=tools.ROOT, text=True, capture_output=True,
            timeout=120, check=False,
            env={**os.environ, "PATH": f"{programs.BIN}:{helm}:{kubectl}:{os.environ['PATH']}",
                 "HOME": str(self.house.root), **{k: str(v) for k, v in variables.items()}})

    def test_pages_are_there(self):
        self.assertEqual([page.stem for page in PAGES],
                         ["backup", "capacity", "install", "troubleshooting", "upgrade"])

    def test_every_command_runs_or_says_what_it_needs(self):
        self.house.start_server()
        work = self.house.root / "work"
        work.mkdir()
        ran_blocks = 0
        for page in PAGES:
            for text in blocks(page):
                if text.startswith(OUTSIDE):
                    continue
                with self.subTest(page=page.name, block=text):
                    ran = self.run_block(text, WORK=work, DATA=self.house.data, BACKUP=work / "b.sqlite3",
                                         RESTORED=work / "restored", SERVER=self.house.address)
                    self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
                    ran_blocks += 1
        self.assertGreaterEqual(ran_blocks, 7)

    def test_both_helms_know_the_flags_of_every_page(self):
        lines = {line for page in PAGES for text in blocks(page) for line in text.splitlines() if line.startswith("helm ")}
        self.assertTrue(any(line.startswith("helm upgrade ") for line in lines))
        for version in tools.LAYERS:
            for line in lines:
                with self.subTest(helm=version, line=line):
                    verb = re.match(r"helm ([a-z]+(?: (?:values|manifest)\b)?)", line)[1].split()
                    known = re.findall(r"--[\w-]+", tools.helm(version, *verb, "--help").stdout)
                    self.assertLessEqual(set(re.findall(r"--[\w-]+", line)), set(known))

    def test_links_lead_somewhere(self):
        for page in [*PAGES, *(DEPLOY / "runbooks").glob("*.md")]:
            for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
                self.assertTrue((page.parent / target).exists(), f"{page.name}: {target}")

    def test_no_reason_is_missing(self):
        rows = re.findall(r"(?m)^\| ([A-Z][A-Z0-9_, ]*) \|", (DEPLOY / "troubleshooting.md").read_text())
        table = {reason for row in rows for reason in row.split(", ")}
        known = reasons()
        self.assertGreater(len(known), 50)
        self.assertEqual(known - table, set())


class BackupTest(programs.HouseTest):
    def test_backup_under_load_opens_with_every_acknowledged_job(self):
        self.house.start_server()
        workshop = Workshop(self.house.root / "shop")
        files = [workshop.file(steps=2)[0] for _ in range(24)]
        acknowledged, half = [], threading.Event()

        def submit(part):
            for file in part:
                name = self.house.submit(file)["name"]
                acknowledged.append(name)
                if len(acknowledged) >= len(files) // 2:
                    half.set()

        threads = [threading.Thread(target=submit, args=(files[i::3],)) for i in range(3)]
        for thread in threads:
            thread.start()
        self.assertTrue(half.wait(120))
        before = list(acknowledged)
        backup = self.house.root / "backup.sqlite3"
        ran = programs.run("teq-server", "backup", "--data", self.house.data, "--to", backup)
        for thread in threads:
            thread.join(120)
        self.assertEqual(ran.code, 0, ran)
        self.assertEqual(len(acknowledged), len(files))

        restored = programs.House()
        self.addCleanup(restored.close)
        restored.data.mkdir()
        (restored.data / "teqd.sqlite3").write_bytes(backup.read_bytes())
        restored.start_server()
        listed = restored.ctl("list", "--project", "test", "--limit", "100", "-o", "json").json()
        jobs = listed["jobs"] if isinstance(listed, dict) else listed
        self.assertLessEqual(set(before), {job["name"] for job in jobs})
        for name in before:
            self.assertEqual(restored.job(name)["state"], "QUEUED")
        again = programs.run("teq-server", "backup", "--data", self.house.data, "--to", backup)
        self.assertEqual(again.code, 1, again)
        self.assertIn("BACKUP_EXISTS", again.err)


if __name__ == "__main__":
    unittest.main()
