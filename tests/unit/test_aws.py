import asyncio
import json
import os
import re
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    ProxyConnectionError,
    ReadTimeoutError,
)
from moto.ec2.models import ec2_backends
from moto.server import ThreadedMotoServer

from cloud_collector.inventory import Inventory
from cloud_collector.provider import Cause, ProviderError, Scope
from cloud_collector.providers import aws
from cloud_collector.providers.aws import Aws, Options, _asking
from cloud_collector.reader import Reader
from tests.rows import packed

REGION = "eu-west-1"
SCOPE = Scope("aws", "", REGION)
DOCUMENT = Path(__file__).parents[2] / "docs" / "cloud-collector.md"
POLICY = json.loads(re.search(r"```json\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)[1])


@pytest.fixture(scope="module")
def moto():
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def post(url, body=b""):
    plain = {"Content-Type": "text/plain"}
    urllib.request.urlopen(urllib.request.Request(url, body, plain, method="POST")).close()


@pytest.fixture(autouse=True)
def cloud(moto, monkeypatch):
    """A cloud with nothing in it, in which nobody is asked for permission."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    post(f"{moto}/moto-api/reset")
    post(f"{moto}/moto-api/reset-auth", b"1000000000")
    return moto


def subnet(region=REGION):
    return boto3.client("ec2", region).describe_subnets()["Subnets"][0]


def described(description, region=REGION, **more):
    ec2 = boto3.client("ec2", region)
    answer = ec2.create_network_interface(SubnetId=subnet(region)["SubnetId"], Description=description, **more)
    return answer["NetworkInterface"]


def run(name, count=1, region=REGION):
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": name}]}] if name else []
    ec2 = boto3.client("ec2", region)
    return ec2.run_instances(ImageId="ami-12345678", MinCount=count, MaxCount=count, TagSpecifications=tags)[
        "Instances"
    ]


def read(scope=SCOPE, **options):
    """What is told, by id of the interface."""
    return {each.id: each for each in Aws(Options(**options)).read(scope).interfaces}


def of_instance(instance):
    (found,) = (each for each in read().values() if each.instance_id == instance["InstanceId"])
    return found


def test_instances_are_named_by_their_tag_or_id():
    (named,), (unnamed,) = run("web"), run("")
    web = of_instance(named)
    assert (web.role, web.type, web.provider, web.region) == ("web", "instance", "aws", REGION)
    assert packed(named["PrivateIpAddress"]) in web.addresses
    assert web.network == subnet()["VpcId"]
    assert web.zone.startswith(REGION)
    assert web.account == "123456789012"
    assert of_instance(unnamed).role == unnamed["InstanceId"]


def test_an_elastic_address_is_the_others_view_of_the_private_one():
    (instance,) = run("web")
    ec2 = boto3.client("ec2", REGION)
    public = ec2.allocate_address(Domain="vpc")
    ec2.associate_address(InstanceId=instance["InstanceId"], AllocationId=public["AllocationId"])
    (pair,) = of_instance(instance).public_addresses
    assert (pair.public, pair.private) == (packed(public["PublicIp"]), packed(instance["PrivateIpAddress"]))


def test_addresses_of_prefixes_are_the_interfaces(monkeypatch):
    made = described("aws-K8S-i-0123456789abcdef0")  # of a node of EKS, whose pods get addresses of prefixes
    pages, given = (
        aws._pages,
        {"Ipv4Prefixes": [{"Ipv4Prefix": "10.9.0.16/28"}], "Ipv6Prefixes": [{"Ipv6Prefix": "::/80"}]},
    )
    monkeypatch.setattr(aws, "_pages", lambda *asked: [each | given for each in pages(*asked)])
    addresses = read()[made["NetworkInterfaceId"]].addresses
    assert set(addresses) == {packed(made["PrivateIpAddress"]), *(packed(f"10.9.0.{16 + host}") for host in range(16))}


SERVED = {
    "ELB app/shop/50dc6c495c0c9188": ("shop", "load_balancer"),
    "ELB net/shop/50dc6c495c0c9188": ("shop", "load_balancer"),
    "ELB classic": ("classic", "load_balancer"),
    "Interface for NAT Gateway nat-0123456789abcdef0": ("nat-0123456789abcdef0", "nat_gateway"),
    "VPC Endpoint Interface vpce-0123456789abcdef0": ("vpce-0123456789abcdef0", "endpoint"),
    "AWS Lambda VPC ENI-resize-images-b2ac0b4c-7b8d-4f0c-93f6-2f6a0b0d8f11": ("resize-images", "function"),
    "EFS mount target for fs-12345678 (fsmt-12345678)": ("fs-12345678", "file_system"),
    "ElastiCache sessions-0001-001": ("sessions-0001-001", "cache"),
    "Amazon EKS production": ("production", "kubernetes"),
    "RDSNetworkInterface": ("RDSNetworkInterface", "database"),
    "Interface for something new": ("something new", "interface"),
}


def test_what_an_interface_says_of_whom_it_serves():
    made = {described(description)["NetworkInterfaceId"]: description for description in SERVED}
    found = read()
    assert {made[each]: (found[each].role, found[each].type) for each in made} == SERVED
    assert {found[each].description for each in made} == SERVED.keys()


def test_all_pages_are_read(monkeypatch):
    monkeypatch.setattr("cloud_collector.providers.aws._PAGE", 5)
    made = {instance["InstanceId"] for instance in run("many", count=12)}
    found = [each for each in read().values() if each.instance_id in made]
    assert {each.instance_id for each in found} == made
    assert {each.role for each in found} == {"many"}


def test_regions_are_those_of_the_account_unless_some_are_named():
    enabled = {region["RegionName"] for region in boto3.client("ec2", REGION).describe_regions()["Regions"]}
    assert {scope.region for scope in Aws(Options()).scopes().found} == enabled
    assert len(enabled) > 10
    assert [scope.region for scope in Aws(Options(regions=("a", "b"))).scopes().found] == ["a", "b"]


def test_other_accounts_are_read_by_their_roles(monkeypatch):
    run("mine")
    other = "arn:aws:iam::210987654321:role/reader"
    theirs = boto3.client("sts", REGION).assume_role(RoleArn=other, RoleSessionName="test")["Credentials"]
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", theirs["AccessKeyId"])
        patch.setenv("AWS_SECRET_ACCESS_KEY", theirs["SecretAccessKey"])
        patch.setenv("AWS_SESSION_TOKEN", theirs["SessionToken"])
        boto3.DEFAULT_SESSION = None
        run("theirs")
    boto3.DEFAULT_SESSION = None
    aws = Aws(Options(regions=(REGION,), roles=(other,)))
    mine, of_role = aws.scopes().found
    assert ("mine", "123456789012") in {(each.role, each.account) for each in aws.read(mine).interfaces}
    assert {(each.role, each.account) for each in aws.read(of_role).interfaces} == {("theirs", "210987654321")}
    only = Aws(Options(regions=(REGION,), roles=(other,), own_account=False))
    assert only.scopes().found == [of_role]


def test_a_database_is_named_where_it_is_the_only_one_of_its_network_and_zone():
    rds = boto3.client("rds", REGION)
    subnets = [each["SubnetId"] for each in boto3.client("ec2", REGION).describe_subnets()["Subnets"]]
    rds.create_db_subnet_group(DBSubnetGroupName="g", DBSubnetGroupDescription="g", SubnetIds=subnets)
    rds.create_db_instance(
        DBInstanceIdentifier="orders",
        DBInstanceClass="db.m5.large",
        Engine="postgres",
        AllocatedStorage=10,
        MasterUsername="admin1",
        MasterUserPassword="password1",
        DBSubnetGroupName="g",
        AvailabilityZone=subnet()["AvailabilityZone"],
    )
    made = described("RDSNetworkInterface")
    assert read()[made["NetworkInterfaceId"]].role == "orders"


def restricted(monkeypatch, moto, actions):
    """Have the credentials from now on allow nothing but these actions."""
    iam = boto3.client("iam", REGION)
    user = f"collector-{len(actions)}-{os.urandom(4).hex()}"
    iam.create_user(UserName=user)
    policy = json.loads(json.dumps(POLICY))
    policy["Statement"][0]["Action"] = actions
    iam.put_user_policy(UserName=user, PolicyName="p", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName=user)["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    post(f"{moto}/moto-api/reset-auth", b"0")


ACTIONS = POLICY["Statement"][0]["Action"]


@pytest.mark.parametrize("missing", [None, *ACTIONS])
def test_the_documented_policy_suffices_and_what_is_missing_is_named(cloud, monkeypatch, missing):
    run("web")
    described("RDSNetworkInterface")
    restricted(monkeypatch, cloud, [action for action in ACTIONS if action != missing])
    aws = Aws(Options())
    said = []
    try:
        said += aws.scopes().unknown.values()
        said += aws.read(SCOPE).lacking
    except ProviderError as error:
        said.append(error)
    if missing is None:
        assert said == []
        return
    (error,) = said
    assert error.cause is Cause.PERMISSION
    assert f"permission {missing} is missing" in str(error)


def test_without_the_permission_for_a_role_its_account_alone_is_not_known(cloud, monkeypatch):
    restricted(monkeypatch, cloud, ACTIONS)
    role = "arn:aws:iam::210987654321:role/reader"
    scopes = Aws(Options(roles=(role,))).scopes()
    assert SCOPE in scopes.found
    assert {scope.account for scope in scopes.found} == {""}
    [(account, error)] = scopes.unknown.items()
    assert (account, error.cause) == (role, Cause.PERMISSION)
    assert f"permission sts:AssumeRole is missing to list the regions as {role}" in str(error)


def test_credentials_that_are_not_taken_are_told(cloud):
    post(f"{cloud}/moto-api/reset-auth", b"0")
    with pytest.raises(ProviderError, match="does not take the credentials") as error:
        read()
    assert error.value.cause is Cause.CREDENTIALS


def test_without_credentials(monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(ProviderError, match="there are no credentials for AWS") as error:
        read()
    assert error.value.cause is Cause.CREDENTIALS


@pytest.mark.parametrize("kind", [ConnectTimeoutError, ReadTimeoutError, ConnectionClosedError, ProxyConnectionError])
def test_what_a_network_does_passes(kind):
    with pytest.raises(ProviderError, match="AWS cannot be reached here") as error, _asking("", "here"):
        raise kind(endpoint_url="https://ec2", proxy_url="http://proxy", error="")
    assert error.value.cause.passes


def test_an_endpoint_that_is_not_there(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr("cloud_collector.providers.aws._MOST_ATTEMPTS", 1)
    with pytest.raises(ProviderError, match="cannot be reached in eu-west-1") as error:
        read(timeout_s=0.5)
    assert error.value.cause is Cause.NETWORK


def many(region, account, count):
    """Make interfaces in the server itself, which its API would take a minute for; return their ids."""
    backend = ec2_backends[account][region]
    within = backend.create_subnet(backend.create_vpc("10.64.0.0/16").id, "10.64.0.0/17", f"{region}a")
    return {
        backend.create_network_interface(within, f"10.64.{16 + number // 250}.{4 + number % 250}").id
        for number in range(count)
    }


def test_thousands_in_several_regions_and_accounts(monkeypatch):
    other = "210987654321"
    made = {
        ("us-east-1", "123456789012"): many("us-east-1", "123456789012", 2_000),
        ("eu-north-1", "123456789012"): many("eu-north-1", "123456789012", 1_000),
        ("us-east-1", other): many("us-east-1", other, 1_500),
    }
    regions = ("us-east-1", "eu-north-1")
    provider = Aws(Options(regions=regions, roles=(f"arn:aws:iam::{other}:role/reader",), timeout_s=60))
    inventory = Inventory()
    asyncio.run(Reader([provider], inventory).read())
    told = {each.id: each for entities in inventory.take_changes() for each in entities.cloud_interfaces}
    for (region, account), ids in made.items():
        assert ids <= told.keys()
        assert {(told[each].region, told[each].account) for each in ids} == {(region, account)}
    assert not list(inventory.take_changes())


class Throttling(BaseHTTPRequestHandler):
    """Before moto: the first requests of each client are too many."""

    moto = ""
    left = 0
    refused = 0

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        cls = type(self)
        if cls.left > 0:
            cls.left -= 1
            cls.refused += 1
            error = "<Error><Code>RequestLimitExceeded</Code><Message>Request limit exceeded.</Message></Error>"
            self.reply(503, f"<Response><Errors>{error}</Errors><RequestID>1</RequestID></Response>".encode())
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        headers["Host"] = f"ec2.{REGION}.amazonaws.com"
        with urllib.request.urlopen(urllib.request.Request(cls.moto, body, headers)) as answer:
            self.reply(200, answer.read())

    def reply(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments):
        pass


@pytest.fixture
def throttling(cloud, monkeypatch):
    Throttling.moto, Throttling.left, Throttling.refused = cloud, 0, 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Throttling)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_what_is_throttled_is_asked_again(throttling, monkeypatch):
    (instance,) = run("web")
    monkeypatch.setenv("AWS_ENDPOINT_URL", throttling)
    Throttling.left = 2
    assert of_instance(instance).role == "web"
    assert Throttling.refused == 2


def test_what_stays_throttled_is_told(throttling, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", throttling)
    monkeypatch.setattr("cloud_collector.providers.aws._MOST_ATTEMPTS", 2)
    Throttling.left = 1000
    with pytest.raises(ProviderError, match="throttles ec2:DescribeNetworkInterfaces in eu-west-1") as error:
        read()
    assert error.value.cause is Cause.THROTTLED


class SignIn(BaseHTTPRequestHandler):
    """What stands between, and has a page of its own for all questions."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(403)
        self.end_headers()
        self.wfile.write(b"<html>Sign in</html>")

    def log_message(self, *arguments):
        pass


def test_what_amazon_cannot_answer_passes_by_itself():
    failed = ClientError({"Error": {"Code": "InternalError"}, "ResponseMetadata": {"HTTPStatusCode": 500}}, "Describe")
    with pytest.raises(ProviderError, match="AWS cannot answer ec2:D in r") as error, _asking("ec2:D", "in r"):
        raise failed
    assert error.value.cause.passes


def test_a_page_of_what_stands_between_is_a_failure_like_others(monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), SignIn) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(ProviderError, match=r"ec2:DescribeNetworkInterfaces failed in eu-west-1 \(HTTP 403\)"):
            read()
        server.shutdown()
