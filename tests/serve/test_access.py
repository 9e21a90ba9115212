"""Access of clients: keys, and the host names that a service without a key answers to."""

import httpx
import pytest

from hyperfocal.serve.access import Access
from serve_cases import service


def asked(access, path="/v1/model", **headers):
    """Return the reason for which a request is refused, or None."""
    fields = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
    refusal = access.refusal({"path": path}, fields)
    return refusal and refusal.fault.reason


@pytest.mark.parametrize("value", ["Bearer k", "bearer k", "BEARER k", "Bearer    k", "bEaReR  k "])
def test_a_key_in_any_spelling_of_its_scheme_opens(value):
    assert asked(Access("k", None), authorization=value) is None


@pytest.mark.parametrize(
    "value", ["", "k", "Bearer", "Bearer ", "Basic k", "Bearerk", "Bearer k k", "Bearer K", "Bearer k,"]
)
def test_anything_else_does_not(value):
    assert asked(Access("k", None), authorization=value) == "no_key"
    assert asked(Access(" ", None), authorization=value) == "no_key"


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:1", "localhost.", "127.0.0.1:80", "[::1]:80", "10.1.2.3:80", "[fe80::1]", "", "b.org:9"],
)
def test_local_names_addresses_and_given_names_are_hosts(host):
    assert asked(Access("", ["B.org"]), host=host) is None


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "a.b.org", "["])
@pytest.mark.parametrize("path", ["/", "/docs", "/v1/model", "/v1/recommend", "/metrics", "/openapi.json", "/nowhere"])
def test_no_other_name_is(host, path):
    access = Access("", ["b.org"])
    for _ in range(2):  # what was allowed before is remembered
        assert asked(access, path, host=host) == "foreign_host"
        assert asked(access, path, host="localhost") is None
    assert asked(Access("", None), path, host=host) is None
    assert asked(access, "/health", host=host) is asked(access, "/ready", host=host) is None


def test_a_page_of_another_site_reads_nothing(recommending):
    for path in ("/v1/model", "/metrics", "/", "/openapi.json"):
        response = recommending.get(path, headers={"Host": "evil.example"})
        assert (response.status_code, response.json()["error"]["reason"]) == (403, "foreign_host")
        assert "start it with --allow-host evil.example or a key" in response.json()["error"]["message"]
    post = {"json": {"histories": [["a"]]}, "headers": {"Host": "evil.example"}}
    assert recommending.post("/v1/recommend", **post).status_code == 403
    assert recommending.get("/health", headers={"Host": "evil.example"}).status_code == 200


@pytest.mark.parametrize(
    ("options", "key", "allowed"),
    [
        (["--allow-host", "proxy.example", "--allow-host", "b.org"], "", {"proxy.example": 200, "evil.example": 403}),
        ([], "k", {"proxy.example": 200}),
        (["--allow-host", "b.org"], "k", {"b.org": 200, "proxy.example": 403}),
        (["--host", "0.0.0.0"], "", {"proxy.example": 200}),
        (["--host", "0.0.0.0", "--allow-host", "b.org"], "", {"b.org": 200, "proxy.example": 403}),
    ],
)
@pytest.mark.slow
def test_hosts_of_a_proxy_a_key_and_an_open_service(recommend_path, options, key, allowed):
    with service(recommend_path, *options, key=key) as running:
        for host, status in allowed.items():
            headers = {"Host": host, "Authorization": f"bearer  {key or 0}"}
            address = f"http://127.0.0.1:{running.port}/v1/model"
            assert httpx.get(address, headers=headers).status_code == status, host
