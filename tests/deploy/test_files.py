"""The files in deploy/ agree with the program, with each other, and with what they promise."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from greetsvc._version import __version__
from greetsvc.cli.command import _command as greet_command
from greetsvc.daemon.settings.config import settings
from greetsvc.daemon.settings.memory import PER_CONNECTION, SHARE_OF_MEMORY

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
LABELS = {"app.kubernetes.io/name": "greetsvc"}
NOT_ROOT = 65532
PROGRAM = 60 * 10**6
"""Bytes that the program takes without a connection."""


@pytest.fixture(scope="module")
def cluster() -> dict[tuple[str, str], Any]:
    """The objects of kubernetes.yaml by kind and name."""
    documents = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text("utf-8")))
    found = {(one["kind"], one["metadata"]["name"]): one for one in documents}
    assert len(found) == len(documents)
    return found


@pytest.fixture
def pod(cluster: dict[tuple[str, str], Any]) -> Any:
    """The template of the pods."""
    return cluster["Deployment", "greetsvc"]["spec"]["template"]["spec"]


@pytest.fixture
def container(pod: Any) -> Any:
    """The only container."""
    (one,) = pod["containers"]
    return one


def test_the_cluster_has_what_a_service_needs(cluster: dict[tuple[str, str], Any]) -> None:
    assert set(cluster) == {
        ("ConfigMap", "greetsvc"),
        ("Deployment", "greetsvc"),
        ("PodDisruptionBudget", "greetsvc"),
        ("Service", "greetsvc"),
        ("Service", "greetsvc-udp"),
        ("NetworkPolicy", "greetsvc"),
    }
    versions = {kind: one["apiVersion"] for (kind, _), one in cluster.items()}
    assert versions == {
        "ConfigMap": "v1",
        "Deployment": "apps/v1",
        "PodDisruptionBudget": "policy/v1",
        "Service": "v1",
        "NetworkPolicy": "networking.k8s.io/v1",
    }


def test_every_selector_finds_the_pods_and_every_port_is_theirs(
    cluster: dict[tuple[str, str], Any], container: Any
) -> None:
    deployment = cluster["Deployment", "greetsvc"]["spec"]
    assert deployment["template"]["metadata"]["labels"] == LABELS
    assert deployment["selector"]["matchLabels"] == LABELS
    assert cluster["PodDisruptionBudget", "greetsvc"]["spec"]["selector"]["matchLabels"] == LABELS
    ports = {one["name"]: one["protocol"] for one in container["ports"]}
    for name in ("greetsvc", "greetsvc-udp"):
        service = cluster["Service", name]["spec"]
        assert service["selector"] == LABELS
        assert {one["targetPort"]: one["protocol"] for one in service["ports"]}.items() <= ports.items()
    policy = cluster["NetworkPolicy", "greetsvc"]["spec"]
    assert policy["podSelector"]["matchLabels"] == LABELS
    assert {one["port"]: one["protocol"] for rule in policy["ingress"] for one in rule["ports"]} == ports
    assert all("from" in rule for rule in policy["ingress"] if {"port": "admin", "protocol": "TCP"} in rule["ports"])
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["egress"] == []


def test_the_settings_of_the_cluster_are_right_and_use_the_ports_of_the_pods(
    cluster: dict[tuple[str, str], Any], container: Any
) -> None:
    (name, text), *_ = cluster["ConfigMap", "greetsvc"]["data"].items()
    assert f"/etc/greetsvc/{name}" in container["args"]
    (mount,) = container["volumeMounts"]
    assert (mount["mountPath"], mount["readOnly"]) == ("/etc/greetsvc", True)
    found = settings({}, (), tomllib.loads(text), name)
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert found.admin is not None
    assert found.admin.endpoint.port == ports["admin"]
    assert not found.listeners  # the default ones, which are for port 8088
    assert {ports["tcp"], ports["udp"]} == {8088}


def test_a_rolling_update_waits_for_the_network_and_for_the_drain(
    cluster: dict[tuple[str, str], Any], pod: Any, container: Any
) -> None:
    deployment = cluster["Deployment", "greetsvc"]["spec"]
    assert deployment["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert deployment["replicas"] > cluster["PodDisruptionBudget", "greetsvc"]["spec"]["maxUnavailable"]
    sleep, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert sleep == "sleep"
    drain = settings({}, (), tomllib.loads(cluster["ConfigMap", "greetsvc"]["data"]["greetsvc.toml"]), "x").drain
    assert int(seconds) + drain < pod["terminationGracePeriodSeconds"]
    probes = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert probes == {"startup": "/readyz", "readiness": "/readyz", "liveness": "/livez"}


def test_the_pods_have_no_rights_and_memory_for_what_they_admit(pod: Any, container: Any) -> None:
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == NOT_ROOT
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    memory = int(container["resources"]["limits"]["memory"].removesuffix("Mi")) * 2**20
    connections = int(memory * SHARE_OF_MEMORY) // PER_CONNECTION
    assert connections * PER_CONNECTION + PROGRAM < memory
    assert f"this: {connections} open connections" in (DEPLOY / "kubernetes.yaml").read_text("utf-8")


def _instructions() -> list[tuple[str, str]]:
    text = (DEPLOY / "Containerfile").read_text("utf-8").replace("\\\n", "")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines()) if word.isupper()]


def test_the_image_is_small_has_no_root_and_primes_the_plugin_cache() -> None:
    instructions = _instructions()
    last = [place for place, (word, _) in enumerate(instructions) if word == "FROM"][-1]
    build, image = instructions[:last], dict(instructions[last:])
    assert [word for word, _ in instructions[last:] if word in {"RUN", "ADD"}] == []
    assert image["FROM"].endswith("-slim")
    assert image["USER"] == f"{NOT_ROOT}:{NOT_ROOT}"
    assert image["STOPSIGNAL"] == "SIGTERM"
    assert image["COPY"].split()[0].startswith("--from=")
    assert build[-1] == ("RUN", "/opt/greetsvc/bin/twistd --help > /dev/null")
    for word, rest in build:
        if word == "COPY":
            *sources, _ = rest.split()
            assert all((ROOT / source).exists() for source in sources), rest
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"][
        "wheel"
    ]
    copied = {source for word, rest in build if word == "COPY" for source in rest.split()[:-1]}
    assert copied >= {*packages["packages"], "pyproject.toml", "README.md", "LICENSE", "deploy"}


def test_the_health_check_of_the_image_is_one_of_greet() -> None:
    command = re.findall(r'"([^"]*)"', dict(_instructions())["HEALTHCHECK"])
    assert command[0] == "greet"
    assert {*command[1:]} <= {name for one in greet_command.params for name in one.opts}


def test_the_image_that_is_built_is_the_one_that_the_pods_run() -> None:
    built = re.findall(r"docker build .* -t (\S+)", (DEPLOY / "Containerfile").read_text("utf-8"))
    run = re.findall(r"image: (\S+)", (DEPLOY / "kubernetes.yaml").read_text("utf-8"))
    assert built == run == [f"greetsvc:{__version__}"]


@pytest.mark.skipif(not shutil.which("haproxy"), reason="needs haproxy")
def test_haproxy_accepts_its_settings() -> None:
    done = subprocess.run(
        ["haproxy", "-c", "-f", str(DEPLOY / "haproxy.cfg")], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_settings_behind_haproxy_are_right() -> None:
    text = (DEPLOY / "haproxy.cfg").read_text("utf-8")
    toml = "\n".join(re.findall(r"^#     (.*)$", text, re.MULTILINE))
    found = settings({}, (), tomllib.loads(toml), "x")
    (listener,) = found.listeners
    assert listener.endpoint.proxied
    assert found.admin is not None
    assert f"check port {found.admin.endpoint.port} " in text
    assert re.findall(r"^    server \w+ \S+:(\d+)$", text, re.MULTILINE) == [str(listener.endpoint.port)] * 2
    (timeout,) = re.findall(r"timeout server (\d+)s", text)
    assert float(timeout) > found.deadline + found.linger
