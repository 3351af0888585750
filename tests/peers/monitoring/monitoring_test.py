"""promtool and Prometheus read the metrics, the rules and the dashboards of a real run."""

import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time
import unittest
import urllib.parse
import urllib.request

import panels as drawing
from harness import programs
from harness.jobs import Workshop

ROOT = pathlib.Path(__file__).parents[3]
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
ALERT_TESTS = ROOT / "deploy" / "prometheus" / "tests" / "alerts.yml"
DASHBOARDS = {name: json.loads((ROOT / "deploy" / "grafana" / f"{name}.json").read_text())
              for name in ("fleet", "job")}
PICTURES = os.environ.get("TEQ_PICTURES")
OURS = re.compile(r"\b(?:teq|grpc_server)_[a-z_]+")


def promtool(*arguments, text_input=None):
    return subprocess.run(["promtool", *map(str, arguments)], input=text_input, text=True,
                          capture_output=True, timeout=120, check=False)


def panels(dashboard):
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def as_sent(expression):
    """A query as Grafana would send it for all jobs."""
    return expression.replace("$__rate_interval", "1m").replace("$job", ".*").replace("$project", ".*")


def queries(dashboard):
    """Every panel's title and query."""
    for panel in panels(dashboard):
        for target in panel.get("targets", []):
            yield panel["title"], as_sent(target["expr"])


class RulesTest(unittest.TestCase):
    def test_rules_and_configuration_are_valid(self):
        for what, file in (("rules", RULES), ("config", RULES.parent / "prometheus.yml")):
            ran = promtool("check", what, file)
            self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)

    def test_alerts_fire_and_end(self):
        ran = promtool("test", "rules", ALERT_TESTS)
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)

    def test_every_alert_has_a_test_of_both_and_a_runbook(self):
        alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
        self.assertGreaterEqual(len(alerts), 8)
        tests = ALERT_TESTS.read_text()
        for alert in alerts:
            with self.subTest(alert=alert):
                fires = re.search(rf"alertname: {alert}\n +exp_alerts:", tests)
                self.assertTrue(fires, "no test in which it fires")
                self.assertRegex(tests[fires.end():], rf"alertname: {alert}}}", "no test in which it ends")
                page = (ROOT / "deploy" / "runbooks" / f"{alert}.md").read_text()
                self.assertIn("**What to do.**", page)
                self.assertIn(f"runbook: deploy/runbooks/{alert}.md", RULES.read_text())
        pages = {page.stem for page in (ROOT / "deploy" / "runbooks").glob("*.md")}
        self.assertEqual(pages, set(alerts))


class DashboardsTest(unittest.TestCase):
    def test_ids_are_unique_and_every_panel_has_a_unit_and_a_description(self):
        uids = [dashboard["uid"] for dashboard in DASHBOARDS.values()]
        self.assertEqual(len(uids), len(set(uids)))
        for name, dashboard in DASHBOARDS.items():
            ids = [panel["id"] for panel in panels(dashboard)]
            self.assertEqual(len(ids), len(set(ids)), name)
            for panel in panels(dashboard):
                if panel["type"] == "row":
                    continue
                with self.subTest(dashboard=name, panel=panel["title"]):
                    self.assertTrue(panel["fieldConfig"]["defaults"]["unit"])
                    self.assertTrue(panel["description"])
                    self.assertEqual(panel["datasource"]["uid"], "${datasource}")
                    letters = [target["refId"] for target in panel["targets"]]
                    self.assertEqual(len(letters), len(set(letters)))

    def test_panels_do_not_overlap(self):
        for name, dashboard in DASHBOARDS.items():
            cells = [(x, y) for panel in panels(dashboard) for place in [panel["gridPos"]]
                     for x in range(place["x"], place["x"] + place["w"])
                     for y in range(place["y"], place["y"] + place["h"])]
            self.assertEqual(len(cells), len(set(cells)), name)
            self.assertTrue(all(x < 24 for x, _ in cells), name)

    def test_every_query_parses(self):
        rules = [{"record": f"q:{index}", "expr": expr}
                 for index, (_, expr) in enumerate(q for d in DASHBOARDS.values() for q in queries(d))]
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
            json.dump({"groups": [{"name": "dashboards", "rules": rules}]}, file)
            file.flush()
            ran = promtool("check", "rules", file.name)
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)


class Prometheus:
    """A Prometheus that scrapes a server, and workers as they come, every second on loopback."""

    def __init__(self, root, server):
        self.root = pathlib.Path(root)
        self.port = programs.free_port()
        self.workers = self.root / "workers.json"
        self.scrape_workers([])
        config = self.root / "prometheus.yml"
        config.write_text(json.dumps({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [
                {"job_name": "teq-server", "honor_labels": True, "static_configs": [{"targets": [server]}]},
                {"job_name": "teq-worker", "file_sd_configs": [
                    {"files": [str(self.workers)], "refresh_interval": "1s"}]}]}))
        self.log = open(self.root / "prometheus.log", "ab")
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={self.root / 'tsdb'}",
             f"--web.listen-address=127.0.0.1:{self.port}"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT)

    def scrape_workers(self, targets):
        staged = self.workers.with_suffix(".new")
        staged.write_text(json.dumps([{"targets": targets}]))
        staged.replace(self.workers)

    def query(self, expression):
        query = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/query?{query}",
                                    timeout=30) as answer:
            return json.load(answer)["data"]["result"]

    def ask(self, span):
        """A function that asks for a range of time, in 200 steps."""
        begin, end = span
        step = (end - begin) / 200

        def ask(expression):
            query = urllib.parse.urlencode({"query": expression, "start": begin, "end": end, "step": step})
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/query_range?{query}",
                                        timeout=30) as answer:
                return json.load(answer)["data"]["result"]

        return ask

    def up(self):
        try:
            return self.query("1")
        except OSError:
            assert self.process.poll() is None, (self.root / "prometheus.log").read_text()
            return []

    def close(self):
        os.kill(self.process.pid, signal.SIGTERM)
        self.process.wait(60)
        self.log.close()


class RealRunTest(programs.HouseTest):
    """One server, two workers: a job that loses its worker, one that succeeds, and one over its gate."""

    def scrape(self, port):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return answer.read().decode()

    def start_scraped_worker(self):
        """A worker that Prometheus scrapes from now on, and the port of its metrics."""
        worker = self.house.start_worker(arguments=["--http", "127.0.0.1:0"])
        found = programs.eventually("the worker tells its port", lambda: re.search(
            r"metrics on 127\.0\.0\.1:(\d+)", worker.output()), 60)
        port = int(found[1])
        self.prometheus.scrape_workers([f"127.0.0.1:{port}"])
        return worker, port

    def run_jobs(self):
        """The port of the last worker's metrics."""
        workshop = Workshop(self.house.root / "shop")
        first, _ = self.start_scraped_worker()
        name = self.house.submit(workshop.file(steps=4000 if PICTURES else 300)[0])["name"]
        self.house.wait_for_training(name)
        first.kill()
        _, port = self.start_scraped_worker()
        self.house.wait_for_state(name, "SUCCEEDED", 300)
        for _ in range(2):  # calls that fail
            self.house.ctl("get", "projects/test/jobs/none")
        job = workshop.job(steps=2)
        job["evaluation"]["max_perplexity_delta"] = -100
        job["recipe"]["weights"]["bits"] = 2
        gated = self.house.submit(workshop.write(job))["name"]
        programs.eventually("the gate holds", lambda: self.house.job(gated)["state"] in
                            programs.FINAL_STATES, 120)
        self.assertEqual(self.house.reason(self.house.job(gated)), "PERPLEXITY_GATE")
        return port

    def draw(self, begin):
        """Both dashboards, into the directory TEQ_PICTURES where that is set: so those of deploy/grafana are made."""
        def ask(expr):
            return self.prometheus.ask((begin, time.time()))(as_sent(expr))

        for name, dashboard in DASHBOARDS.items():
            for panel in dashboard["panels"]:
                if panel["type"] != "row":
                    programs.eventually(f"data in {name}'s panel {panel['title']}",
                                        lambda p=panel: drawing.series_of(p, ask), 30, 0.5)
            drawn = drawing.draw(dashboard, ask, (begin, time.time()))
            self.assertNotIn("no data", drawn)
            self.assertLess(len(drawn), 100_000)
            if PICTURES:
                (pathlib.Path(PICTURES) / f"{name}.svg").write_text(drawn)

    def test_every_metric_exists_and_every_query_has_data(self):
        begin = time.time()
        self.house.start_server()
        self.prometheus = Prometheus(self.house.root, f"127.0.0.1:{self.house.http_port}")
        self.addCleanup(self.prometheus.close)
        programs.eventually("Prometheus answers", self.prometheus.up, 60)
        worker_port = self.run_jobs()

        server, worker = self.scrape(self.house.http_port), self.scrape(worker_port)
        for exposition in (server, worker):
            ran = promtool("check", "metrics", text_input=exposition)
            self.assertEqual((ran.returncode, ran.stdout + ran.stderr), (0, ""))
        exposed = set(re.findall(r"(?m)^([a-z_]+)[{ ]", server + worker))
        named = {metric for dashboard in DASHBOARDS.values() for _, expr in queries(dashboard)
                 for metric in OURS.findall(expr)}
        named |= {metric for metric in OURS.findall(RULES.read_text())}
        self.assertGreater(len(named), 20)
        self.assertEqual(named - exposed, set())

        for dashboard_name, dashboard in DASHBOARDS.items():
            for title, expr in queries(dashboard):
                with self.subTest(dashboard=dashboard_name, panel=title, query=expr):
                    programs.eventually(f"data for {expr}", lambda e=expr: self.prometheus.query(e), 30, 0.2)
        self.draw(begin)
        records = re.findall(r"- record: (\S+)", RULES.read_text())
        self.assertGreater(len(records), 3)
        for record in records:
            with self.subTest(record=record):
                programs.eventually(f"data for {record}", lambda r=record: self.prometheus.query(r), 30, 0.2)


if __name__ == "__main__":
    unittest.main()
