"""Files for places that are not this machine's terminal: a service, a cluster, a host."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import msgspec

from mastra_nb.cli.build import PORT, STOP_SECONDS, Build, serve_command

TOKEN = "MASTRA_NB_SERVER_TOKEN"  # noqa: S105 (the name of a variable)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """`files` are written beside the build, `commands` are what is left to do by hand."""

    files: dict[str, str]
    commands: list[str]


def docker(made: Build, folder: Path) -> Plan:
    image = f"{made.name}:{made.digest}"
    return Plan(
        files={},
        commands=[
            f"docker build -t {image} {shlex.quote(str(folder))}",
            f"docker run -d --name {made.name} -p {PORT}:{PORT} -v {made.name}-data:/data"
            f" --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges"
            f" --env-file .env -e {TOKEN} --stop-timeout {STOP_SECONDS} {image}",
        ],
    )


def systemd(made: Build, folder: Path) -> Plan:
    home = f"/opt/{made.name}"
    command = serve_command(made.app, host="127.0.0.1")
    start = [f"{home}/venv/bin/{command[0]}", *command[1:]]
    unit = _UNIT.format(
        name=made.name,
        home=home,
        start=" ".join(_unit_word(word) for word in start),
        drain=STOP_SECONDS,
    )
    return Plan(
        files={f"{made.name}.service": unit},
        commands=[
            f"sudo cp -r {shlex.quote(str(folder))} {home}",
            f"sudo python{made.python} -m venv {home}/venv",
            f"sudo {home}/venv/bin/pip install --find-links {home}/wheels"
            f" -r {home}/requirements.lock",
            f"sudo install -m 600 .env /etc/{made.name}.env    # with {TOKEN}=…",
            f"sudo cp {home}/{made.name}.service /etc/systemd/system/",
            f"sudo systemctl daemon-reload && sudo systemctl enable --now {made.name}",
        ],
    )


def _unit_word(word: str) -> str:
    """Quoted as a unit file has it, where % and $ mean something."""
    word = word.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$")
    return json.dumps(word) if any(c in word for c in " \"'\\;") else word


_UNIT = """\
[Unit]
Description={name}, served by mastra-nb
After=network-online.target
Wants=network-online.target

[Service]
Type=exec
WorkingDirectory={home}
ExecStart={start}
Environment=DATABASE_URL=sqlite:////var/lib/{name}/mastra.db
Environment=HOME=/var/lib/{name} PYTHONUNBUFFERED=1
EnvironmentFile=-/etc/{name}.env
Restart=on-failure
RestartSec=2

# SIGTERM lets runs come to rest; what does not is taken up by the next start.
KillSignal=SIGTERM
KillMode=mixed
TimeoutStopSec={drain}

DynamicUser=yes
StateDirectory={name}
UMask=0077
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
CapabilityBoundingSet=

[Install]
WantedBy=multi-user.target
"""


def kubernetes(made: Build, folder: Path) -> Plan:
    text = _KUBERNETES.format(
        name=made.name.replace(".", "-"),
        digest=made.digest,
        port=PORT,
        token=TOKEN,
        drain=STOP_SECONDS,
    )
    name = made.name.replace(".", "-")
    return Plan(
        files={"kubernetes.yaml": text},
        commands=[
            f"docker build -t REGISTRY/{name}:{made.digest} {shlex.quote(str(folder))}",
            f"docker push REGISTRY/{name}:{made.digest}",
            f"kubectl create secret generic {name} --from-env-file=.env    # with {TOKEN}=…",
            f"sed 's|REGISTRY|your.registry|' {shlex.quote(str(folder / 'kubernetes.yaml'))}"
            " | kubectl apply -f -",
        ],
    )


# One replica that is replaced, never two: SQLite is a file of one machine. With DATABASE_URL of a
# server of databases there may be more.
_KUBERNETES = """\
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {name}
spec:
  accessModes: [ReadWriteOnce]
  resources:
    requests:
      storage: 1Gi
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {name}
  labels: {{app: {name}}}
spec:
  # The store is a file on one volume, so there is one of it at a time.
  replicas: 1
  strategy: {{type: Recreate}}
  selector:
    matchLabels: {{app: {name}}}
  template:
    metadata:
      labels: {{app: {name}}}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: {drain}
      securityContext:
        runAsNonRoot: true
        runAsUser: 10001
        fsGroup: 10001
        seccompProfile: {{type: RuntimeDefault}}
      containers:
        - name: {name}
          image: REGISTRY/{name}:{digest}
          ports:
            - name: http
              containerPort: {port}
          envFrom:
            # Keys of the models, and {token}.
            - secretRef: {{name: {name}}}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {{drop: [ALL]}}
          startupProbe:
            httpGet: {{path: /health, port: http}}
            periodSeconds: 2
            failureThreshold: 60
          readinessProbe:
            httpGet: {{path: /health, port: http}}
            periodSeconds: 5
          livenessProbe:
            httpGet: {{path: /health, port: http}}
            periodSeconds: 15
            timeoutSeconds: 5
            failureThreshold: 4
          resources:
            requests: {{cpu: 100m, memory: 256Mi}}
            limits: {{memory: 1Gi}}
          volumeMounts:
            - {{name: data, mountPath: /data}}
            - {{name: tmp, mountPath: /tmp}}
      volumes:
        - name: data
          persistentVolumeClaim: {{claimName: {name}}}
        - name: tmp
          emptyDir: {{}}
---
apiVersion: v1
kind: Service
metadata:
  name: {name}
spec:
  selector: {{app: {name}}}
  ports:
    - name: http
      port: 80
      targetPort: http
"""


def fly(made: Build, folder: Path) -> Plan:
    name = made.name.replace(".", "-")
    return Plan(
        files={"fly.toml": _FLY.format(name=name, port=PORT, drain=STOP_SECONDS)},
        commands=[
            f"cd {shlex.quote(str(folder))} && fly apps create {name}",
            "fly volumes create data --size 1",
            f"fly secrets import < {shlex.quote('../.env')}    # with {TOKEN}=…",
            "fly deploy --ha=false",
        ],
    )


_FLY = """\
app = "{name}"
kill_signal = "SIGTERM"
kill_timeout = {drain}

[build]
dockerfile = "Dockerfile"

[http_service]
internal_port = {port}
force_https = true
# A run goes on when its client has gone, so a machine without requests may be busy.
auto_stop_machines = "off"
auto_start_machines = true
min_machines_running = 1

[[http_service.checks]]
method = "GET"
path = "/health"
interval = "15s"
timeout = "5s"
grace_period = "20s"

[mounts]
source = "data"
destination = "/data"
"""

TARGETS = {"docker": docker, "systemd": systemd, "kubernetes": kubernetes, "fly": fly}
