import pytest

from cloud_collector.provider import Cause, ProviderError, Scope
from cloud_collector.providers.gcp import Gcp, Options
from tests.cloud_apis import google_credentials, serving
from tests.rows import packed

PROJECT = "my-project"
ROOT = f"/compute/v1/projects/{PROJECT}"
WWW = f"https://www.googleapis.com/compute/v1/projects/{PROJECT}"
DEFAULT_NETWORK = f"{WWW}/global/networks/default"
SCOPE = Scope("gcp", PROJECT, "")


def instance(name, address, *, external="", metadata=(), **more):
    return {
        "id": "4152124796919337364",
        "name": name,
        "zone": f"{WWW}/zones/europe-west1-b",
        "metadata": {"items": [{"key": key, "value": value} for key, value in metadata]},
        "networkInterfaces": [
            {
                "name": "nic0",
                "network": DEFAULT_NETWORK,
                "networkIP": address,
                "accessConfigs": [{"type": "ONE_TO_ONE_NAT", **({"natIP": external} if external else {})}],
                **more,
            }
        ],
    }


def page(*instances):
    return {
        "items": {
            "zones/europe-west1-b": {"instances": list(instances)},
            "zones/x": {"warning": {"code": "NO_RESULTS_ON_PAGE"}},
        }
    }


@pytest.fixture
def api(tmp_path, monkeypatch):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(google_credentials(tmp_path, PROJECT)))
    with serving("nextPageToken") as opened:
        opened.pages = {
            f"{ROOT}/aggregated/instances": [page()],
            f"{ROOT}/aggregated/forwardingRules": [{"items": {}}],
            f"{ROOT}/global/forwardingRules": [{"items": []}],
        }
        yield opened


@pytest.fixture
def gcp(api):
    return Gcp(Options(endpoint=api.url, timeout_s=5))


def test_the_project_is_that_of_the_credentials_unless_others_are_named(gcp, api):
    assert gcp.scopes().found == [SCOPE]
    other = Gcp(Options(projects=("a", "b"), endpoint=api.url))
    assert [scope.account for scope in other.scopes().found] == ["a", "b"]


def test_an_instance_with_an_external_address(gcp, api):
    api.pages[f"{ROOT}/aggregated/instances"] = [
        page(instance("web-1", "10.132.0.2", external="203.0.113.7", ipv6Address="fd20::2"))
    ]
    (found,) = gcp.read(SCOPE).interfaces
    assert (found.provider, found.account, found.region, found.zone) == (
        "gcp",
        PROJECT,
        "europe-west1",
        "europe-west1-b",
    )
    assert found.network == f"{PROJECT}/global/networks/default"
    assert list(found.addresses) == [packed("10.132.0.2"), packed("fd20::2")]
    (pair,) = found.public_addresses
    assert (pair.public, pair.private) == (packed("203.0.113.7"), packed("10.132.0.2"))
    assert (found.role, found.type, found.instance_id) == ("web-1", "instance", "4152124796919337364")
    assert api.authorizations.pop().startswith("Bearer ")


def test_instances_of_a_group_are_one_workload(gcp, api):
    group = "projects/1/zones/europe-west1-b/instanceGroupManagers/frontend"
    api.pages[f"{ROOT}/aggregated/instances"] = [
        page(instance("frontend-x7q2", "10.0.0.1", metadata=[("created-by", group)]))
    ]
    (found,) = gcp.read(SCOPE).interfaces
    assert found.role == "frontend"


def test_all_pages_are_read(gcp, api):
    api.pages[f"{ROOT}/aggregated/instances"] = [
        page(*(instance(f"web-{number}-{each}", f"10.{number}.0.{each}") for each in range(100))) for number in range(3)
    ]
    found = gcp.read(SCOPE).interfaces
    assert len({each.id for each in found}) == 300
    assert api.asked[f"{ROOT}/aggregated/instances"] == 3


def test_load_balancers_of_regions_and_of_the_world(gcp, api):
    rule = {
        "name": "shop",
        "IPAddress": "10.132.0.9",
        "network": DEFAULT_NETWORK,
        "region": f"{WWW}/regions/europe-west1",
    }
    api.pages[f"{ROOT}/aggregated/forwardingRules"] = [{"items": {"regions/europe-west1": {"forwardingRules": [rule]}}}]
    api.pages[f"{ROOT}/global/forwardingRules"] = [{"items": [{"name": "world", "IPAddress": "203.0.113.80"}]}]
    regional, world = gcp.read(SCOPE).interfaces
    assert (regional.role, regional.type, regional.zone, regional.manager) == (
        "shop",
        "load_balancer",
        "europe-west1",
        "google",
    )
    assert (world.role, world.zone, list(world.addresses)) == ("world", "global", [packed("203.0.113.80")])


def refusal(code, status, message):
    return code, {
        "error": {"code": code, "message": message, "status": status, "errors": [{"reason": "x", "message": message}]}
    }


@pytest.mark.parametrize(
    ("code", "cause", "says"),
    [
        (401, Cause.CREDENTIALS, "does not take the credentials"),
        (403, Cause.PERMISSION, "permission compute.instances.list is missing in project my-project"),
        (429, Cause.THROTTLED, "poll less often"),
        (404, Cause.OTHER, "compute.instances.list failed"),
        (500, Cause.FAULT, "cannot answer compute.instances.list in project my-project"),
    ],
)
def test_what_is_refused_says_what_to_do(gcp, api, code, cause, says):
    api.refusals[f"{ROOT}/aggregated/instances"] = refusal(code, "X", "no")
    with pytest.raises(ProviderError, match=says) as error:
        gcp.read(SCOPE)
    assert error.value.cause is cause


def test_what_has_no_server_just_now_is_asked_again_for_a_while_alone(api):
    api.refusals[f"{ROOT}/aggregated/instances"] = refusal(503, "UNAVAILABLE", "no")
    with pytest.raises(ProviderError, match="last exception: 503") as error:
        Gcp(Options(endpoint=api.url, timeout_s=1)).read(SCOPE)
    assert error.value.cause.passes
    assert api.asked[f"{ROOT}/aggregated/instances"] > 1


def test_an_api_that_cannot_be_reached_is_no_matter_of_credentials(api):
    with pytest.raises(ProviderError, match="cannot be reached in project my-project: ") as error:
        Gcp(Options(endpoint="http://127.0.0.1:9", timeout_s=1)).read(SCOPE)
    assert error.value.cause is Cause.NETWORK


@pytest.mark.parametrize("kind", ["instances", "forwardingRules"])
def test_a_zone_that_is_not_reached_is_not_taken_for_empty(gcp, api, kind):
    warning = {"code": "UNREACHABLE", "message": "it is down"}
    api.pages[f"{ROOT}/aggregated/{kind}"] = [page(), {"items": {"zones/europe-west1-c": {"warning": warning}}}]
    text = "does not reach zones/europe-west1-c now for compute"
    if kind == "instances":
        with pytest.raises(ProviderError, match=text) as error:
            gcp.read(SCOPE)
        assert error.value.cause.passes
    else:
        (lack,) = gcp.read(SCOPE).lacking
        assert (text in str(lack), lack.cause.passes) == (True, True)


def test_without_the_permission_for_rules_instances_are_told(gcp, api):
    api.pages[f"{ROOT}/aggregated/instances"] = [page(instance("web-1", "10.132.0.2"))]
    api.refusals[f"{ROOT}/global/forwardingRules"] = refusal(403, "PERMISSION_DENIED", "no")
    found = gcp.read(SCOPE)
    assert [each.role for each in found.interfaces] == ["web-1"]
    (lack,) = found.lacking
    assert "compute.globalForwardingRules.list" in str(lack)


def test_without_credentials(monkeypatch, tmp_path):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(ProviderError, match="GOOGLE_APPLICATION_CREDENTIALS") as error:
        Gcp(Options()).scopes()
    assert error.value.cause is Cause.CREDENTIALS
