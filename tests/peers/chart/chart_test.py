"""Helm 3 and 4 render the chart, kubectl the overlays, and every object is what Kubernetes knows."""

import functools
import json
import pathlib
import re
import shutil
import tempfile
import unittest

import tools
from harness import programs

VALUES = sorted((tools.HERE / "values").glob("*.yaml"))
OVERLAYS = sorted((tools.ROOT / "deploy" / "kubernetes" / "overlays").iterdir())


@functools.cache
def render(*arguments, apis=(tools.OPERATOR,), release="r"):
    """The chart's objects as Helm 4 renders them."""
    ran = tools.template("4", *arguments, apis=apis, release=release)
    assert ran.returncode == 0, ran.stderr
    objects, findings = tools.validate(ran.stdout)
    assert findings == [], findings
    return objects


def named(objects, kind, name):
    (found,) = [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
    return found


def container(workload):
    ((_, spec),) = tools.pods([workload])
    (only,) = spec["containers"]
    return only


class ValidatorTest(unittest.TestCase):
    """What the other tests rely on finds what it should."""

    DEPLOYMENT = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"a": "b"}},
                 "template": {"metadata": {"labels": {"a": "b"}},
                              "spec": {"containers": [{"name": "c", "image": "i"}]}}}}
    MONITOR = {"apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor",
               "metadata": {"name": "m"}, "spec": {"selector": {}, "endpoints": [{"port": "http"}]}}

    def findings(self, sample, change=lambda value: None):
        value = json.loads(json.dumps(sample))
        change(value)
        return tools.validate(json.dumps(value))[1]

    def test_good_objects_have_no_finding(self):
        self.assertEqual(self.findings(self.DEPLOYMENT), [])
        self.assertEqual(self.findings(self.MONITOR), [])

    def test_unknown_fields_are_found_at_every_depth(self):
        def top(value):
            value["spce"] = {}

        def deep(value):
            value["spec"]["template"]["spec"]["containers"][0]["imagePolicy"] = "Always"

        def monitor(value):
            value["spec"]["endpoints"][0]["intervall"] = "1s"

        self.assertEqual(self.findings(self.DEPLOYMENT, top), ["Deployment d: /spce: unknown field"])
        self.assertEqual(self.findings(self.DEPLOYMENT, deep), [
            "Deployment d: /spec/template/spec/containers/0/imagePolicy: unknown field"])
        self.assertEqual(self.findings(self.MONITOR, monitor), [
            "ServiceMonitor m: /spec/endpoints/0/intervall: unknown field"])

    def test_wrong_types_and_kinds_are_found(self):
        def replicas(value):
            value["spec"]["replicas"] = "two"

        def kind(value):
            value["kind"] = "Deploymint"

        (wrong,) = self.findings(self.DEPLOYMENT, replicas)
        self.assertIn("/spec/replicas: type", wrong)
        self.assertEqual(self.findings(self.DEPLOYMENT, kind),
                         ["Deploymint d: no schema of apps/v1"])

    def test_a_careless_pod_is_found(self):
        found = tools.security_findings([self.DEPLOYMENT])
        for what in ("may run as root", "no seccomp profile", "keeps capabilities",
                     "root filesystem is writable", "a token is mounted", "memory has no limit"):
            self.assertIn(f"Deployment d: {what}", found)

    def test_names_and_labels_that_kubernetes_refuses_are_found(self):
        def entry(kind, name, value="a"):
            return {"kind": kind, "metadata": {"name": name, "labels": {"l": value}}}

        good = [entry("CronJob", "c" * 52), entry("Job", "j" * 52 + "-1"), entry("StatefulSet", "s" * 52),
                entry("Service", "s" * 63), entry("ConfigMap", "1.c" + "c" * 250), entry("ConfigMap", "c", "l" * 63)]
        self.assertEqual(tools.name_findings(good), [])
        bad = [entry("CronJob", "c" * 53), entry("Job", "j" * 53 + "-1"), entry("StatefulSet", "s" * 53),
               entry("Service", "s" * 64), entry("Service", "a.b"), entry("Service", "1a"), entry("Service", "a-"),
               entry("ConfigMap", "c" * 254), entry("ConfigMap", "c", "l" * 64), entry("ConfigMap", "c", 1.2),
               {**entry("ConfigMap", "c"), "spec": {"selector": {"matchLabels": {"l": "l-"}}}}]
        for each in bad:
            with self.subTest(entry=each):
                self.assertEqual(len(tools.name_findings([each])), 1)


class ChartTest(unittest.TestCase):
    def test_there_are_ten_value_sets(self):
        self.assertEqual(len(VALUES), 10)

    def test_lint_finds_nothing(self):
        for version in tools.LAYERS:
            for values in VALUES:
                with self.subTest(helm=version, values=values.name):
                    ran = tools.helm(version, "lint", "--strict", tools.CHART, "--values", values)
                    self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
                    self.assertNotRegex(ran.stdout + ran.stderr, r"\[(WARNING|ERROR)\]|symbolic link")

    def test_both_helms_render_the_same_and_every_object_is_valid(self):
        for values in VALUES:
            with self.subTest(values=values.name):
                texts = {}
                for version in tools.LAYERS:
                    ran = tools.template(version, "--values", values)
                    self.assertEqual(ran.returncode, 0, ran.stderr)
                    texts[version] = ran.stdout
                self.assertEqual(texts["3"], texts["4"])
                objects = render("--values", values)
                keys = [(o["kind"], o["metadata"]["name"]) for o in objects]
                self.assertEqual(len(keys), len(set(keys)), keys)
                self.assertIn("StatefulSet", [kind for kind, _ in keys])

    def test_names_fit_for_every_release_and_pool(self):
        pools = {"p" * 15 + "a": {"device": "cpu", "mode": "job", "job": {"schedule": "0 1 * * *"}},
                 "p" * 15 + "b": {"device": "cpu", "mode": "job", "job": {"schedule": "0 1 * * *"}},
                 "p" * 15 + "c": {"device": "cpu", "mode": "job"}, "p" * 15 + "d": {"device": "cpu", "mode": "job"},
                 "p" * 15 + "e": {"device": "cpu", "replicas": 2}}
        # Of 53 characters, as long as Helm takes, also with dashes and dots where names are cut; and short ones.
        releases = ["r" * 53, "1" * 53, "teqd" + "r" * 49, "1.2", "1e3", "team.teqd", "r" * 38 + "--" + "r" * 13,
                    ".".join("r" * 27), "r" * 18 + "--" + "r" * 33]
        cases = [(release, ()) for release in releases]
        cases += [("1.2", ("--set-string", f"{key}={value}"))
                  for key, value in (("fullnameOverride", "f" * 63), ("nameOverride", "1" * 63), ("nameOverride", "1"))]
        for release, overrides in cases:
            with self.subTest(release=release, overrides=overrides):
                objects = render("--set-json", f"workers.pools={json.dumps(pools)}", *overrides, release=release)
                self.assertEqual(tools.name_findings(objects), [])
                keys = [(o["kind"], o["metadata"]["name"]) for o in objects]
                self.assertEqual(len(keys), len(set(keys)), keys)
                for name in pools:
                    kind = {"a": "CronJob", "b": "CronJob", "c": "Job", "d": "Job", "e": "Deployment"}[name[-1]]
                    ending = f"-worker-{name}-1" if kind == "Job" else f"-worker-{name}"
                    self.assertEqual(len([n for k, n in keys if k == kind and n.endswith(ending)]), 1, keys)

    def test_names_that_kubernetes_takes_are_whole(self):
        # An upgrade must find the StatefulSet, and so its volume, under the name that it had.
        def names(release, schedule):
            pool = {"device": "cpu", "mode": "job", "job": {"schedule": schedule}}
            objects = render("--set-json", f"workers.pools={json.dumps({'nightly': pool})}", release=release)
            return {(o["kind"], o["metadata"]["name"]) for o in objects}

        for release, full in {"teqd": "teqd", "r": "r-teqd", "models-of-every-team": "models-of-every-team-teqd",
                              "quantization-of-every-team": "quantization-of-every-team-teqd"}.items():
            with self.subTest(release=release):
                self.assertLessEqual(
                    {("StatefulSet", f"{full}-server"), ("Service", full), ("Service", f"{full}-headless"),
                     ("ServiceAccount", f"{full}-worker"), ("ConfigMap", f"{full}-worker-nightly"),
                     ("CronJob", f"{full}-worker-nightly")}, names(release, "0 1 * * *"))
                self.assertIn(("Job", f"{full}-worker-nightly-1"), names(release, ""))
        self.assertIn(("StatefulSet", "quantization-of-every-model-of-team-a-te-server"),
                      names("quantization-of-every-model-of-team-a", ""))

    def test_releases_that_differ_late_have_jobs_of_their_own(self):
        names = set()
        for team in "ab":
            objects = render("--set-json", 'workers.pools={"twelve-oclock": {"device": "cpu", "mode": "job"}}',
                             release=f"quantization-of-models-of-team-{team}")
            names |= {o["metadata"]["name"] for o in objects if o["kind"] == "Job"}
        self.assertEqual(len(names), 2, names)

    def test_other_charts_may_have_it_on_a_condition(self):
        with tempfile.TemporaryDirectory() as directory:
            parent = pathlib.Path(directory) / "parent"
            shutil.copytree(tools.CHART, parent / "charts" / "teqd")
            (parent / "Chart.yaml").write_text(
                "{apiVersion: v2, name: parent, version: 1.0.0, dependencies: "
                "[{name: teqd, version: 0.1.0, repository: '', condition: teqd.enabled}]}")
            for version in tools.LAYERS:
                for enabled in ("true", "false"):
                    with self.subTest(helm=version, enabled=enabled):
                        ran = tools.template(version, "--set", f"teqd.enabled={enabled}", chart=parent)
                        self.assertEqual(ran.returncode, 0, ran.stderr)
                        self.assertEqual("kind: StatefulSet" in ran.stdout, enabled == "true")

    def test_restricted_pod_security_holds_outside_gaudi(self):
        for values in VALUES:
            with self.subTest(values=values.name):
                findings = tools.security_findings(render("--values", values))
                if "gaudi" in values.name:
                    self.assertEqual(findings, ["Deployment r-teqd-worker-gaudi: hostIPC",
                                                "Deployment r-teqd-worker-gaudi: adds capabilities"])
                else:
                    self.assertEqual(findings, [])

    def test_selectors_and_references_meet_what_they_name(self):
        for values in VALUES:
            with self.subTest(values=values.name):
                objects = render("--values", values)
                made = {(o["kind"], o["metadata"]["name"]) for o in objects}
                labels = [o["spec"]["template"]["metadata"]["labels"] for o in objects
                          if o["kind"] in ("Deployment", "StatefulSet")]
                for entry in objects:
                    if entry["kind"] == "Service":
                        wanted = entry["spec"]["selector"].items()
                        self.assertEqual(sum(wanted <= have.items() for have in labels), 1)
                    if entry["kind"] in ("Deployment", "StatefulSet"):
                        wanted = entry["spec"]["selector"]["matchLabels"].items()
                        self.assertLessEqual(wanted, entry["spec"]["template"]["metadata"]["labels"].items())
                for name, spec in tools.pods(objects):
                    for volume in spec.get("volumes", []):
                        config = volume.get("configMap", {}).get("name")
                        if volume["name"] == "config":
                            self.assertIn(("ConfigMap", config), made, name)
                    mounted = {m["name"] for c in spec["containers"] for m in c.get("volumeMounts", [])}
                    claims = {"data"} if name.startswith("StatefulSet") else set()
                    self.assertLessEqual(mounted, {v["name"] for v in spec.get("volumes", [])} | claims)

    def test_cluster_without_the_operator_gets_none_of_its_objects(self):
        kinds = {o["kind"] for o in render(apis=())}
        self.assertFalse(kinds & {"ServiceMonitor", "PodMonitor", "PrometheusRule"}, kinds)
        self.assertLessEqual({"ServiceMonitor", "PodMonitor", "PrometheusRule"},
                             {o["kind"] for o in render()})

    def test_rules_and_dashboards_are_those_of_deploy(self):
        objects = render()
        rules = (tools.ROOT / "deploy" / "prometheus" / "rules.yml").read_text()
        self.assertEqual(named(objects, "PrometheusRule", "r-teqd")["spec"], tools.read_yaml(rules))
        for name in ("fleet", "job"):
            dashboard = named(objects, "ConfigMap", f"r-teqd-dashboard-{name}")
            self.assertEqual(dashboard["metadata"]["labels"]["grafana_dashboard"], "1")
            source = (tools.ROOT / "deploy" / "grafana" / f"{name}.json").read_text()
            self.assertEqual(json.loads(dashboard["data"][f"teqd-{name}.json"]), json.loads(source))

    def test_alerts_name_their_runbook_and_have_its_url_where_one_is_told(self):
        def annotations(*arguments):
            groups = named(render(*arguments), "PrometheusRule", "r-teqd")["spec"]["groups"]
            return {rule["alert"]: rule["annotations"] for group in groups for rule in group["rules"]
                    if "alert" in rule}

        told = annotations()
        self.assertGreaterEqual(len(told), 8)
        for alert, notes in told.items():
            self.assertEqual((notes["runbook"], notes.get("runbook_url")), (f"deploy/runbooks/{alert}.md", None))
        for base in ("https://pages.example/runbooks", "https://pages.example/runbooks/"):
            linked = annotations("--set", f"metrics.prometheusRule.runbookBaseUrl={base}")
            self.assertEqual(linked.keys(), told.keys())
            for alert, notes in linked.items():
                self.assertEqual((notes["runbook_url"], notes.get("runbook")),
                                 (f"https://pages.example/runbooks/{alert}.md", None))

    def test_devices_are_asked_for_by_their_names(self):
        gpu = container(named(render("--values", VALUES[2]), "Deployment", "r-teqd-worker-gpu"))
        self.assertEqual(gpu["resources"]["limits"]["nvidia.com/gpu"], 1)
        self.assertEqual(gpu["image"], "teqd-worker-cuda:0.1.0")
        gaudi = container(named(render("--values", VALUES[3]), "Deployment", "r-teqd-worker-gaudi"))
        for part in ("requests", "limits"):
            self.assertEqual(gaudi["resources"][part]["habana.ai/gaudi"], 1)
            self.assertEqual(gaudi["resources"][part]["hugepages-2Mi"], "40000Mi")
        self.assertEqual(gaudi["resources"]["limits"]["memory"], "32Gi")
        self.assertEqual(gaudi["resources"]["requests"]["memory"], "16Gi")

    def test_batch_pods_end_and_exit_codes_decide_about_their_job(self):
        objects = render("--values", VALUES[4])
        cpu = named(objects, "Job", "r-teqd-worker-cpu-1")
        gpu = named(objects, "Job", "r-teqd-worker-gpu-1")
        # maxJobs 0 and exitWhenIdle false are values, not absence.
        self.assertEqual(container(cpu)["args"][2:], ["--exit-when-idle"])
        self.assertEqual(container(gpu)["args"][2:], ["--max-jobs=1"])
        self.assertEqual(cpu["spec"]["completions"], 3)
        self.assertNotIn("suspend", cpu["spec"])
        self.assertTrue(gpu["spec"]["suspend"])
        self.assertEqual(gpu["metadata"]["labels"]["kueue.x-k8s.io/queue-name"], "quantization")
        actions = {}
        for rule in cpu["spec"]["podFailurePolicy"]["rules"]:
            for code in rule.get("onExitCodes", {}).get("values", []):
                self.assertNotIn(code, actions)
                actions[code] = rule["action"]
        # The codes are the agent's: worker/agent/agent.h.
        header = (tools.ROOT / "worker" / "agent" / "agent.h").read_text()
        codes = {name: int(code) for name, code in re.findall(r"constexpr int kExit(\w+) = (\d+);", header)}
        self.assertEqual(codes.pop("Ok"), 0)
        self.assertEqual(actions.pop(2), "FailJob")  # wrong usage or configuration, of main.cc
        self.assertEqual(actions, {codes["Error"]: "FailJob", codes["Unreachable"]: "Count",
                                   codes["LeaseLost"]: "Ignore", codes["AtOnce"]: "Ignore"})

    def test_scheduled_batches_are_cron_jobs(self):
        cron = named(render("--values", VALUES[5]), "CronJob", "r-teqd-worker-nightly")
        self.assertEqual(cron["spec"]["schedule"], "0 1 * * *")
        job = cron["spec"]["jobTemplate"]
        self.assertEqual(job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"], "nights")
        self.assertEqual(job["spec"]["backoffLimit"], 0)
        self.assertEqual(job["spec"]["activeDeadlineSeconds"], 21600)

    def test_credentials_come_from_secrets_and_never_stand_in_the_objects(self):
        for workload in ("StatefulSet r-teqd-server", "Deployment r-teqd-worker-cpu"):
            kind, name = workload.split()
            keyed = container(named(render("--values", VALUES[6]), kind, name))
            env = {e["name"]: e for e in keyed["env"]}
            for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
                self.assertEqual(env[variable]["valueFrom"]["secretKeyRef"]["name"], "store-keys")
                self.assertEqual(env[variable]["valueFrom"]["secretKeyRef"]["key"], variable)
            self.assertEqual(env["HF_TOKEN"]["valueFrom"]["secretKeyRef"]["name"], "hub-token")
            self.assertEqual({n: e["value"] for n, e in env.items() if "value" in e}, {
                "AWS_EC2_METADATA_DISABLED": "true", "AWS_REGION": "eu-central-1",
                "AWS_ENDPOINT_URL_S3": "http://store.example:9000", "TEQ_S3_ADDRESSING": "path",
                "TEQ_S3_ALLOW_HTTP": "1",
                "AWS_CA_BUNDLE": "/etc/teqd-ca/ca.crt", "HF_ENDPOINT": "https://hub.example"})

    def test_web_identity_is_a_token_for_that_alone(self):
        objects = render("--values", VALUES[7])
        self.assertEqual([o["metadata"]["name"] for o in objects if o["kind"] == "ServiceAccount"],
                         ["r-teqd-server"])
        server = named(objects, "StatefulSet", "r-teqd-server")
        env = {e["name"]: e.get("value") for e in container(server)["env"]}
        ((_, pod),) = tools.pods([server])
        (volume,) = [v for v in pod["volumes"] if v["name"] == "web-identity"]
        (mount,) = [m for m in container(server)["volumeMounts"] if m["name"] == "web-identity"]
        token = volume["projected"]["sources"][0]["serviceAccountToken"]
        self.assertEqual(token["audience"], "sts.amazonaws.com")
        self.assertEqual(env["AWS_WEB_IDENTITY_TOKEN_FILE"], f"{mount['mountPath']}/{token['path']}")
        self.assertEqual(env["AWS_ROLE_ARN"], "arn:aws:iam::123456789012:role/teqd")

    def test_http_to_another_machine_is_refused_unless_allowed(self):
        role = ("--set", "objectStore.webIdentity.roleArn=arn:aws:iam::123456789012:role/teqd")
        allowed = ("--set", "objectStore.allowHttp=true")
        for key, variable in (("endpoint", "AWS_ENDPOINT_URL_S3"), ("webIdentity.stsEndpoint", "AWS_ENDPOINT_URL_STS")):
            for url in ("http://store.example:9000", "http://127.0.0.1.example", "http://localhost.example"):
                setting = ("--set", f"objectStore.{key}={url}")
                with self.subTest(setting=setting):
                    for version in tools.LAYERS:
                        ran = tools.template(version, *role, *setting)
                        self.assertNotEqual(ran.returncode, 0)
                        self.assertIn(f"objectStore.{key}: {url} is not encrypted", ran.stderr)
                        self.assertIn("objectStore.allowHttp", ran.stderr)
                    for kind, name in (("StatefulSet", "r-teqd-server"), ("Deployment", "r-teqd-worker-cpu")):
                        workload = named(render(*role, *setting, *allowed), kind, name)
                        env = {e["name"]: e.get("value") for e in container(workload)["env"]}
                        self.assertEqual((env[variable], env["TEQ_S3_ALLOW_HTTP"]), (url, "1"))
            for url in ("https://store.example", "http://127.0.0.1:9000", "http://localhost", "http://[::1]:9000/"):
                setting = ("--set", f"objectStore.{key}={url}")
                with self.subTest(setting=setting):
                    env = container(named(render(*role, *setting), "StatefulSet", "r-teqd-server"))["env"]
                    self.assertIn({"name": variable, "value": url}, env)

    def test_lines_are_json_unless_text_is_asked_for(self):
        for arguments, word in (((), "json"), (("--set", "logFormat=text"), "text")):
            configs = [text for o in render(*arguments) if o["kind"] == "ConfigMap"
                       for key, text in o["data"].items() if key in ("server.yaml", "worker.yaml")]
            self.assertEqual(len(configs), 2)
            for text in configs:
                self.assertEqual(tools.read_yaml(text)["log_format"], word)

    def test_liveness_needs_no_disk(self):
        server = container(named(render(), "StatefulSet", "r-teqd-server"))
        self.assertEqual(server["livenessProbe"]["grpc"], {"port": 8470})
        self.assertEqual(server["readinessProbe"]["httpGet"]["path"], "/readyz")

    def test_network_is_denied_by_default(self):
        objects = render()
        deny = named(objects, "NetworkPolicy", "r-teqd-default-deny")["spec"]
        self.assertEqual(deny["policyTypes"], ["Ingress", "Egress"])
        self.assertFalse("ingress" in deny or "egress" in deny)
        for entry in objects:
            if entry["kind"] in ("Deployment", "StatefulSet"):
                labels = entry["spec"]["template"]["metadata"]["labels"]
                self.assertLessEqual(deny["podSelector"]["matchLabels"].items(), labels.items())
        self.assertEqual([o for o in render("--values", VALUES[8]) if o["kind"] == "NetworkPolicy"], [])

    def test_names_are_asked_of_the_cluster(self):
        tools.assert_dns_is_reachable(self, render())

    def test_wrong_values_are_refused_by_name(self):
        cases = {
            "serverr.image.tag=1": "serverr",
            "server.service.grpcPort=http": "grpcPort",
            "server.replicas=2": "replicas",
            "workers.pools.cpu.replicas=two": "replicas",
            "workers.pools.cpu.device=tpu": "device",
            "workers.pools.Big_Pool.device=cpu": "Big_Pool",
            "workers.pools.cpu.threads=0": "threads",
            "workers.pools.new.replicas=1": "device",
            "server.leaseDuration=thirty": "leaseDuration",
            "objectStore.addressing=paht": "addressing",
            "uriPrefixes={/mnt/teqd}": "uriPrefixes",
            "uriPrefixes=null": "uriPrefixes",
            "logFormat=xml": "logFormat",
            "metrics.prometheusRule.runbookBaseUrl=deploy/runbooks": "runbookBaseUrl",
            "server.leaseDuration=0.5s": "leaseDuration",
            "server.drainTimeout=0s": "drainTimeout",
            "uriPrefixes={file://mnt/teqd}": "uriPrefixes",
            "nameOverride=a.b": "nameOverride",
            "fullnameOverride=a.b": "fullnameOverride",
            "fullnameOverride=1a": "fullnameOverride",
            "enabled=often": "enabled",
        }
        for version in tools.LAYERS:
            for setting, word in cases.items():
                with self.subTest(helm=version, setting=setting):
                    ran = tools.template(version, "--set", setting)
                    self.assertNotEqual(ran.returncode, 0, setting)
                    self.assertIn(word, ran.stderr)

    def test_notes_say_that_traffic_is_plaintext_and_how_to_begin(self):
        # Helm 3 prints them only where it reaches a cluster.
        ran = tools.helm("4", "install", "r", tools.CHART, "--dry-run=client", "--namespace", "ns")
        self.assertEqual(ran.returncode, 0, ran.stderr)
        self.assertIn("TRAFFIC IS PLAINTEXT", ran.stdout)
        self.assertIn("teqctl --server 127.0.0.1:8470 submit -f job.yaml --watch", ran.stdout)
        self.assertIn("cpu: cpu, 1 workers", ran.stdout)


class ProgramsTest(unittest.TestCase):
    """The programs accept the files that the chart and the overlays write for them."""

    def setUp(self):
        self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def assert_server_starts(self, text):
        config = self.root / "server.yaml"
        config.write_text(text)
        server = programs.Program("teq-server", [
            "--config", config, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data",
            self.root / "data"], self.root / "server.log")
        try:
            programs.eventually("teq-server listens", lambda: "listening grpc=" in server.output()
                                or not server.running, 30)
            self.assertIn("listening grpc=", server.output())
        finally:
            server.terminate()

    def assert_server_refuses(self, text, reason):
        config = self.root / "server.yaml"
        config.write_text(text)
        ran = programs.run("teq-server", "--config", config, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0",
                           "--data", self.root / "data", seconds=30)
        self.assertNotEqual(ran.code, 0, ran)
        self.assertIn(reason, ran.err)

    def assert_worker_reads(self, text):
        config = self.root / "worker.yaml"
        config.write_text(text)
        ran = programs.run("teq-worker", "--config", config, "run", "--job", self.root / "none.yaml")
        self.assertNotIn("INVALID_CONFIG", ran.err)
        self.assertIn("none.yaml", ran.err)

    def check(self, objects):
        configs = [o for o in objects if o["kind"] == "ConfigMap"]
        servers = [o["data"]["server.yaml"] for o in configs if "server.yaml" in o["data"]]
        workers = [o["data"]["worker.yaml"] for o in configs if "worker.yaml" in o["data"]]
        self.assertEqual(len(servers), 1)
        self.assertNotEqual(workers, [])
        self.assert_server_starts(servers[0])
        for worker in workers:
            self.assert_worker_reads(worker)

    def test_files_of_the_chart(self):
        for values in (VALUES[0], VALUES[1], VALUES[3]):
            with self.subTest(values=values.name):
                self.check(render("--values", values))

    def test_values_that_the_server_refuses_are_refused_before(self):
        takes = {
            "server.leaseDuration": "5s 5.5s 090s 10s 0.5m 0.09m 0.0834m 0.5h 0.002h 0.00139h 24h",
            "server.drainTimeout": "1s 0.5s 00.10m 0.001h 10m",
            "uriPrefixes[0]": "file:/// file:///mnt/teqd file:///mnt/teqd/ s3:// s3://bucket s3://bucket/ s3://bucket/a/b "
                              "https:// https://models.internal https://models.internal:8443/a/ https://[::1]:8443 "
                              "hf:// hf://owner hf://owner/ hf://owner/name hf://owner/name@v1/rc hf://owner/name/",
        }
        refuses = {
            "server.leaseDuration": "0s 0.0m 1s 04.999s 0.08m 0.0833m 0.001h 0.00138h 0.00001h",
            "server.drainTimeout": "0s 0.0s 00m 0.00h",
            "uriPrefixes[0]": "file:// file://mnt/teqd file:////mnt file:///mnt//teqd file:///mnt/teqd?a s3:///a "
                              "s3://bucket//a s3://bucket/#a https:///a https://models.internal//a hf://owner//name",
        }
        lines = {"server.leaseDuration": "lease_duration: '{}'", "server.drainTimeout": "drain_timeout: '{}'",
                 "uriPrefixes[0]": "uri_prefixes: ['{}']"}
        for key, line in lines.items():
            for value in takes[key].split():
                with self.subTest(key=key, takes=value):
                    self.assert_server_starts(line.format(value))
                    ran = tools.template("4", "--set", f"{key}={value}")
                    self.assertEqual(ran.returncode, 0, ran.stderr)
            for value in refuses[key].split():
                with self.subTest(key=key, refuses=value):
                    reason = "INVALID_URI" if key.startswith("uri") else "INVALID_CONFIG"
                    self.assert_server_refuses(line.format(value), reason)
                    ran = tools.template("4", "--set", f"{key}={value}")
                    self.assertNotEqual(ran.returncode, 0)
                    self.assertIn(f"'{value}' does not match pattern", ran.stderr)

    def test_files_of_the_overlays(self):
        for overlay in OVERLAYS:
            with self.subTest(overlay=overlay.name):
                self.check(tools.validate(tools.kustomize("4", overlay).stdout)[0])


class KustomizeTest(unittest.TestCase):
    def test_there_is_an_overlay_for_each_device(self):
        self.assertEqual([o.name for o in OVERLAYS], ["cpu", "gaudi", "gpu"])

    def test_overlays_render_the_same_and_every_object_is_valid(self):
        for overlay in OVERLAYS:
            with self.subTest(overlay=overlay.name):
                texts = []
                for version in tools.LAYERS:
                    ran = tools.kustomize(version, overlay)
                    self.assertEqual(ran.returncode, 0, ran.stderr)
                    self.assertNotIn("deprecated", ran.stderr)
                    texts.append(ran.stdout)
                self.assertEqual(texts[0], texts[1])
                objects, findings = tools.validate(texts[0])
                self.assertEqual(findings, [])
                tools.assert_dns_is_reachable(self, objects)
                expected = (["Deployment teqd-worker: hostIPC", "Deployment teqd-worker: adds capabilities"]
                            if overlay.name == "gaudi" else [])
                self.assertEqual(tools.security_findings(objects), expected)
                resources = container(named(objects, "Deployment", "teqd-worker"))["resources"]["limits"]
                device = {"cpu": set(), "gpu": {"nvidia.com/gpu"},
                          "gaudi": {"habana.ai/gaudi", "hugepages-2Mi"}}[overlay.name]
                self.assertEqual(set(resources) - {"memory"}, device)


if __name__ == "__main__":
    unittest.main()
