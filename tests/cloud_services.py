"""The metadata services of the clouds: servers, and documents in the form of each provider's reference."""

from __future__ import annotations

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from kernel_collector.machine.bounded_http import Service

TOKEN = "AQAEAK-token=="
MAC = "02:29:96:8f:6a:2d"
MACS = "/latest/meta-data/network/interfaces/macs/"
AWS = {
    "/latest/dynamic/instance-identity/document": json.dumps(
        {
            "accountId": "123456789012",
            "architecture": "x86_64",
            "availabilityZone": "us-east-1d",
            "devpayProductCodes": None,
            "imageId": "ami-5fb8c835",
            "instanceId": "i-1234567890abcdef0",
            "instanceType": "m5.large",
            "privateIp": "10.158.112.84",
            "region": "us-east-1",
        }
    ),
    "/latest/meta-data/iam/security-credentials/": "web-server",
    MACS: f"{MAC}/\n02:aa:bb:cc:dd:ee/",
    f"{MACS}{MAC}/ipv4-associations/": "203.0.113.25",
    f"{MACS}{MAC}/ipv4-associations/203.0.113.25": "10.158.112.84",
}
GOOGLE = {
    "/computeMetadata/v1/instance/zone": "projects/1234/zones/europe-west1-b",
    "/computeMetadata/v1/instance/id": "4152124796919337364",
    "/computeMetadata/v1/instance/machine-type": "projects/1234/machineTypes/n1-standard-1",
    "/computeMetadata/v1/project/project-id": "my-project",
    "/computeMetadata/v1/instance/service-accounts/?recursive=true": json.dumps(
        {
            "1234-compute@developer.gserviceaccount.com": {"aliases": ["default"], "email": "other", "scopes": []},
            "default": {"aliases": ["default"], "email": "1234-compute@developer.gserviceaccount.com", "scopes": []},
        }
    ),
    "/computeMetadata/v1/instance/network-interfaces/?recursive=true": json.dumps(
        [
            {
                "accessConfigs": [{"externalIp": "203.0.113.7", "type": "ONE_TO_ONE_NAT"}],
                "ip": "10.132.0.2",
                "network": "projects/1234/networks/default",
            },
            {"accessConfigs": [{"externalIp": "", "type": "ONE_TO_ONE_NAT"}], "ip": "10.132.0.3"},
        ]
    ),
}
AZURE_PATH = "/metadata/instance?api-version=2021-02-01&format=json"
AZURE_DOCUMENT = {
    "compute": {
        "location": "westeurope",
        "name": "examplevm",
        "subscriptionId": "8d10da13-8125-4ba9-a717-bf7490507b3d",
        "vmId": "02aab8a4-74ef-476e-8182-f6d2ba4166a6",
        "vmSize": "Standard_D2s_v3",
        "zone": "2",
    },
    "network": {
        "interface": [
            {
                "ipv4": {
                    "ipAddress": [{"privateIpAddress": "10.144.133.132", "publicIpAddress": "203.0.113.9"}],
                    "subnet": [{"address": "10.144.133.128", "prefix": "26"}],
                },
                "ipv6": {"ipAddress": []},
                "macAddress": "0011AAFFBB22",
            }
        ]
    },
}


@contextlib.contextmanager
def served(answer, address=("127.0.0.1", 0)):
    """Serve *answer*(method, path, headers) -> (status, headers, body) or None, at *address*; yield where."""

    class Handler(BaseHTTPRequestHandler):
        def respond(self):
            found = answer(self.command, self.path, self.headers)
            status, headers, body = found or (404, {}, "")
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body if isinstance(body, bytes) else body.encode())

        do_GET = do_PUT = respond  # noqa: N815

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(address, Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield Service(server.server_address)
        server.shutdown()


def aws_v2(method, path, headers):
    if path == "/latest/api/token":
        return (
            (200, {}, TOKEN) if method == "PUT" and headers["X-aws-ec2-metadata-token-ttl-seconds"] else (405, {}, "")
        )
    if headers["X-aws-ec2-metadata-token"] != TOKEN:
        return 401, {}, ""
    return (200, {}, AWS[path]) if path in AWS else None


def aws_v1(method, path, headers):
    if method == "PUT" or headers["X-aws-ec2-metadata-token"]:
        return 403, {}, ""
    return (200, {}, AWS[path]) if path in AWS else None


def of_google(method, path, headers):
    if headers["Metadata-Flavor"] != "Google" or method != "GET":
        return 403, {"Metadata-Flavor": "Google"}, ""
    return (200, {"Metadata-Flavor": "Google", "Server": "x"}, GOOGLE[path]) if path in GOOGLE else None


def of_azure(method, path, headers, document=AZURE_DOCUMENT):
    if headers["Metadata"] != "true":
        return 400, {}, ""
    return (200, {}, json.dumps(document)) if (method, path) == ("GET", AZURE_PATH) else None
