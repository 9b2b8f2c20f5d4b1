"""A real SuperLink and its SuperNodes on loopback: TLS, registered keys, own processes.

The layout is the one of the field: neither SuperLink nor SuperNode starts anything itself
(``--isolation process`` with a secret). A SuperExec runs the ServerApp, and at each site a warm
executor (:mod:`tests.integration.site_executor`) the ClientApp.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from flwr.cli.build import build_fab_from_disk
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

BIN = Path(sys.executable).parent
REPOSITORY = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
START_SECONDS = 60.0
STOP_SECONDS = 5.0
SHOWN_CHARACTERS = 3000

PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "fedloop-campaign"
version = "1.0.0"
description = "Names the apps that are installed already; holds no code"
license = "Apache-2.0"
dependencies = []

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "fedloop"

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"

[tool.flwr.app.config]
campaign-folder = ""
"""


class Deployment:
    """Starts processes under ``folder`` and ends all of them on exit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True)
        self._mark = secrets.token_hex(16)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._port = free_port()
        self._secret = self._write("superexec.secret", secrets.token_bytes(32))
        self._ca, self._certificate, self._key = write_certificates(folder)
        self.control: ControlHttpClient

    # ------------------------------------------------------------------ processes

    def __enter__(self) -> Deployment:
        try:
            self._start_superlink()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.control.close()
        self._end()
        if kind is not None:
            print(self.logs())

    def _start_superlink(self) -> None:
        address = f"{HOST}:{self._port}"
        self._start(
            "superlink",
            "flower-superlink",
            *("--host", HOST, "--port", str(self._port)),
            *("--ssl-ca-certfile", self._ca, "--ssl-certfile", self._certificate),
            *("--ssl-keyfile", self._key, "--enable-supernode-auth"),
            "--disable-runtime-dependency-installation",
            *("--database", str(self.folder / "superlink.db"), "--isolation", "process"),
            *("--superexec-auth-secret-file", self._secret),
        )
        self.control = ControlHttpClient.from_server_address(
            address,
            insecure=False,
            root_certificates=Path(self._ca).read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr-cli")],
        )
        self.wait(lambda: _listens(self._port), "the SuperLink listens", START_SECONDS)
        self._start(
            "superexec",
            "flower-superexec",
            *("--root-certificates", self._ca, "--runtime-api-address", address),
            *("--superexec-auth-secret-file", self._secret),
        )

    def start_supernode(self, name: str, key: Path, config: Mapping[str, str]) -> None:
        """A site: its SuperNode and its executor."""
        port = free_port()
        self._start(
            name,
            "flower-supernode",
            *("--superlink", f"{HOST}:{self._port}", "--root-certificates", self._ca),
            *("--auth-supernode-private-key", str(key), "--host", HOST),
            *("--port", str(port), "--isolation", "process"),
            *("--superexec-auth-secret-file", self._secret),
            *("--node-config", " ".join(f'{k}="{v}"' for k, v in config.items())),
        )
        executor = ("-m", "tests.integration.site_executor", f"{HOST}:{port}", self._secret)
        self._start(f"{name}-executor", "python", *executor)

    def _start(self, name: str, program: str, *arguments: str) -> None:
        environment = os.environ | {
            "FLWR_HOME": str(self.folder / "flwr"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
            "FEDLOOP_TEST_DEPLOYMENT": self._mark,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONUNBUFFERED": "1",
        }
        with self._log(name).open("wb") as stream:
            self._processes[name] = subprocess.Popen(
                [str(BIN / program), *arguments],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _end(self) -> None:
        """End every process that carries this deployment's mark: children detach themselves."""
        for process in reversed(self._processes.values()):
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        while self.running() and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.1)
        for pid in self.running():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for process in self._processes.values():
            process.wait(STOP_SECONDS)

    def running(self) -> list[int]:
        """Processes of this deployment, grandchildren included."""
        wanted = f"FEDLOOP_TEST_DEPLOYMENT={self._mark}".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:  # gone, or another user's
                continue
        return found

    def _reap(self) -> None:
        for process in self._processes.values():
            process.poll()

    def wait(self, done: Callable[[], bool], what: str, seconds: float) -> None:
        """Raises: AssertionError: it took too long, or a process ended."""
        deadline = time.monotonic() + seconds
        while not done():
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise AssertionError(f"{name} ended with {process.returncode}\n{self.logs()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not within {seconds:.0f} s\n{self.logs()}")
            time.sleep(0.2)

    # ------------------------------------------------------------------ control

    def register(self, name: str, key: Path) -> int:
        """Make a node key at ``key`` and register it; returns the node's id."""
        private = ec.generate_private_key(ec.SECP384R1())
        key.write_bytes(
            private.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.OpenSSH,
                serialization.NoEncryption(),
            )
        )
        key.chmod(0o600)
        request = RegisterNodeRequest(
            public_key=public_key_to_bytes(private.public_key()), name=name
        )
        return int(self.control.RegisterNode(request).node_id)

    def online(self) -> int:
        """How many SuperNodes are connected."""
        nodes = self.control.ListNodes(ListNodesRequest()).nodes_info
        return sum(node.status == "online" for node in nodes)

    def start_run(self, config: Mapping[str, Any]) -> int:
        """Start the code-free app; returns the run's id."""
        app = self.folder / "fedloop-campaign"
        app.mkdir()
        (app / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
        content = build_fab_from_disk(app)
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        request = StartRunRequest(
            fab=fab_to_proto(fab), override_config=user_config_to_proto(dict(config)), federation=""
        )
        return int(self.control.StartRun(request).run_id)

    def status(self, run: int) -> tuple[str, str, str]:
        """``(status, sub-status, details)`` of a run."""
        found = self.control.ListRuns(ListRunsRequest()).run_dict[run].status
        return found.status, found.sub_status, found.details

    # ------------------------------------------------------------------ files

    def logs(self) -> str:
        """The end of every process's output."""
        parts = []
        for name in self._processes:
            text = self._log(name).read_text(encoding="utf-8", errors="replace")
            parts.append(f"--- {name}\n{text[-SHOWN_CHARACTERS:]}")
        return "\n".join(parts)

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _write(self, name: str, content: bytes) -> str:
        path = self.folder / name
        path.write_bytes(content)
        path.chmod(0o600)
        return str(path)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def write_certificates(folder: Path) -> tuple[str, str, str]:
    """A CA and a server certificate for loopback; paths of CA, certificate and key."""
    ca_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = _name("fedloop test CA")
    authority = x509.BasicConstraints(ca=True, path_length=0)
    ca = _certificate(ca_name, ca_name, ca_key.public_key(), ca_key, [(authority, True)])
    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(HOST))]
    )
    leaf = x509.BasicConstraints(ca=False, path_length=None)
    server = _certificate(
        _name("localhost"), ca_name, server_key.public_key(), ca_key, [(names, False), (leaf, True)]
    )
    private = server_key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    paths = []
    for name, content in (
        ("ca.crt", ca.public_bytes(serialization.Encoding.PEM)),
        ("server.pem", server.public_bytes(serialization.Encoding.PEM)),
        ("server.key", private),
    ):
        path = folder / name
        path.write_bytes(content)
        paths.append(str(path))
    return paths[0], paths[1], paths[2]


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePrivateKey,
    extensions: Sequence[tuple[x509.ExtensionType, bool]],
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(signer, hashes.SHA256())


def _listens(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=1.0):
            return True
    except OSError:
        return False
