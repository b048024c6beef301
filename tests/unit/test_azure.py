import json
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from azure.core.exceptions import ServiceRequestError, ServiceResponseTimeoutError

from cloud_collector.provider import Cause, ProviderError, Scope
from cloud_collector.providers.azure import Azure, Options, _asking
from tests.cloud_apis import serving
from tests.rows import packed

SUBSCRIPTION = "9a1c7d0e-0000-4000-8000-000000000001"
ROOT = f"/subscriptions/{SUBSCRIPTION}"
GROUP = f"{ROOT}/resourceGroups/shop"
NETWORK = f"{GROUP}/providers/Microsoft.Network"
COMPUTE = f"{GROUP}/providers/Microsoft.Compute"
SCOPE = Scope("azure", SUBSCRIPTION, "")
NICS = f"{ROOT}/providers/Microsoft.Network/networkInterfaces"
MACHINES = f"{ROOT}/providers/Microsoft.Compute/virtualMachines"
SETS = f"{ROOT}/providers/Microsoft.Compute/virtualMachineScaleSets"
ADDRESSES = f"{ROOT}/providers/Microsoft.Network/publicIPAddresses"
BALANCERS = f"{ROOT}/providers/Microsoft.Network/loadBalancers"


class Identity(BaseHTTPRequestHandler):
    """The endpoint of a managed identity, as it is inside of App Service."""

    def do_GET(self):
        body = json.dumps(
            {"access_token": "t0ken", "expires_on": "4102444800", "resource": "x", "token_type": "Bearer"}
        )
        self.send_response(200 if self.headers.get("X-IDENTITY-HEADER") == "secret" else 401)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_arguments):
        pass


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tls")
    pair = str(directory / "cert.pem"), str(directory / "key.pem")
    request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*request.split(), *names, "-out", pair[0], "-keyout", pair[1]], check=True, capture_output=True)
    return pair


@pytest.fixture
def api(pair, monkeypatch):
    identity = HTTPServer(("127.0.0.1", 0), Identity)
    thread = threading.Thread(target=identity.serve_forever)
    thread.start()
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"http://127.0.0.1:{identity.server_port}/msi/token")
    monkeypatch.setenv("IDENTITY_HEADER", "secret")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", pair[0])
    with serving("nextLink", pair) as opened:
        opened.pages = {path: [{"value": []}] for path in (NICS, MACHINES, SETS, ADDRESSES, BALANCERS)}
        opened.pages["/subscriptions"] = [{"value": [{"subscriptionId": SUBSCRIPTION}]}]
        yield opened
    identity.shutdown()
    thread.join()
    identity.server_close()


@pytest.fixture
def azure(api):
    return Azure(Options((), api.url, 5))


def nic(name, address, *, machine=None, public=None, **more):
    configuration = {
        "id": f"{NETWORK}/networkInterfaces/{name}/ipConfigurations/one",
        "name": "one",
        "properties": {
            "privateIPAddress": address,
            "subnet": {"id": f"{NETWORK}/virtualNetworks/main/subnets/web"},
            **({"publicIPAddress": {"id": public}} if public else {}),
        },
    }
    properties = {"ipConfigurations": [configuration], **more}
    if machine:
        properties["virtualMachine"] = {"id": machine}
    return {
        "id": f"{NETWORK}/networkInterfaces/{name}",
        "name": name,
        "location": "westeurope",
        "properties": properties,
    }


def test_subscriptions_are_those_that_the_credentials_see_unless_some_are_named(azure, api):
    assert azure.scopes().found == [SCOPE]
    assert api.authorizations == {"Bearer t0ken"}
    named = Azure(Options(("a", "b"), api.url, 5))
    assert [scope.account for scope in named.scopes().found] == ["a", "b"]


def test_a_machine_with_a_public_address(azure, api):
    machine, public = f"{COMPUTE}/virtualMachines/web", f"{NETWORK}/publicIPAddresses/web-ip"
    api.pages[NICS] = [{"value": [nic("web-nic", "10.1.0.4", machine=machine.upper(), public=public.lower())]}]
    described = {"id": machine, "name": "web", "location": "westeurope", "zones": ["2"], "properties": {}}
    api.pages[MACHINES] = [{"value": [described]}]
    api.pages[ADDRESSES] = [{"value": [{"id": public, "name": "web-ip", "properties": {"ipAddress": "203.0.113.9"}}]}]
    (found,) = azure.read(SCOPE).interfaces
    assert (found.provider, found.account, found.region) == ("azure", SUBSCRIPTION, "westeurope")
    assert (found.zone, found.role, found.type) == ("westeurope-2", "web", "instance")
    assert found.network == f"{NETWORK}/virtualNetworks/main"
    assert list(found.addresses) == [packed("10.1.0.4")]
    (addresses,) = found.public_addresses
    assert (addresses.public, addresses.private) == (packed("203.0.113.9"), packed("10.1.0.4"))


def test_machines_of_a_scale_set_are_one_workload(azure, api):
    scale_set = f"{COMPUTE}/virtualMachineScaleSets/nodes"
    api.pages[SETS] = [{"value": [{"id": scale_set, "name": "nodes", "location": "westeurope", "properties": {}}]}]
    listed = f"{GROUP}/providers/microsoft.Compute/virtualMachineScaleSets/nodes/networkInterfaces"
    members = [nic(f"n{n}", f"10.1.1.{n}", machine=f"{scale_set}/virtualMachines/{n}") for n in range(3)]
    api.pages[listed] = [{"value": members[:2]}, {"value": members[2:]}]
    api.pages[listed.replace("microsoft.Compute", "Microsoft.Compute")] = api.pages[listed]
    found = azure.read(SCOPE).interfaces
    assert [(each.role, each.type) for each in found] == [("nodes", "instance")] * 3


def test_all_pages_are_read(azure, api):
    api.pages[NICS] = [{"value": [nic(f"n{page}-{n}", f"10.{page}.0.{n}") for n in range(50)]} for page in range(3)]
    assert len(azure.read(SCOPE).interfaces) == 150
    assert api.asked[NICS] == 3


def test_load_balancers_and_private_endpoints(azure, api):
    front_end = {
        "id": f"{NETWORK}/loadBalancers/shop/frontendIPConfigurations/one",
        "name": "one",
        "zones": ["1"],
        "properties": {"privateIPAddress": "10.1.0.100", "subnet": {"id": f"{NETWORK}/virtualNetworks/main/subnets/x"}},
    }
    balancer = {
        "id": f"{NETWORK}/loadBalancers/shop",
        "name": "shop",
        "location": "westeurope",
        "properties": {"frontendIPConfigurations": [front_end]},
    }
    api.pages[BALANCERS] = [{"value": [balancer]}]
    endpoint = {"privateEndpoint": {"id": f"{NETWORK}/privateEndpoints/orders-db"}}
    api.pages[NICS] = [{"value": [nic("endpoint-nic", "10.1.0.5", **endpoint)]}]
    database, shop = azure.read(SCOPE).interfaces
    assert (database.role, database.type) == ("orders-db", "endpoint")
    assert (shop.role, shop.type, shop.zone, shop.manager) == ("shop", "load_balancer", "westeurope-1", "microsoft")
    assert list(shop.addresses) == [packed("10.1.0.100")]


@pytest.mark.parametrize(
    ("code", "cause", "says"),
    [
        (401, Cause.CREDENTIALS, "no usable credentials for Azure"),
        (403, Cause.PERMISSION, "permission Microsoft.Network/networkInterfaces/read is missing"),
        (404, Cause.OTHER, "Microsoft.Network/networkInterfaces/read failed"),
        (501, Cause.FAULT, "Azure cannot answer Microsoft.Network/networkInterfaces/read in subscription"),
    ],
)
def test_what_is_refused_says_what_to_do(azure, api, code, cause, says):
    api.refusals[NICS] = code, {"error": {"code": "No", "message": "no"}}
    with pytest.raises(ProviderError, match=says) as error:
        azure.read(SCOPE)
    assert error.value.cause is cause


def test_without_a_permission_the_rest_is_told(azure, api):
    api.pages[NICS] = [{"value": [nic("web-nic", "10.1.0.4", machine=f"{COMPUTE}/virtualMachines/web")]}]
    api.refusals[MACHINES] = 403, {"error": {"code": "AuthorizationFailed", "message": "no"}}
    found = azure.read(SCOPE)
    assert [each.role for each in found.interfaces] == ["web"]
    (lack,) = found.lacking
    assert "Microsoft.Compute/virtualMachines/read" in str(lack)


@pytest.mark.parametrize("kind", [ServiceRequestError, ServiceResponseTimeoutError])
def test_what_a_network_does_passes(kind):
    with pytest.raises(ProviderError, match="Azure cannot be reached here: slow") as error, _asking("", "here"):
        raise kind("slow")
    assert error.value.cause.passes


def test_an_endpoint_that_is_not_there(api):
    with pytest.raises(ProviderError) as error:
        Azure(Options((SUBSCRIPTION,), "https://127.0.0.1:1", 0.2)).read(SCOPE)
    assert error.value.cause is Cause.NETWORK
