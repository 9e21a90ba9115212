"""What every service has beside its answers: the card, the counts, the description, and its refusals."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from hyperfocal.serve.app import PAGES, _search
from serve_cases import ITEMS, RIGHT_TO_LEFT, service


def refusal(response):
    error = response.json()["error"]
    assert set(error) == {"reason", "message", "where"}
    return response.status_code, error["reason"]


def test_the_card_tells_the_job_the_counts_and_the_scores(recommending, classifying):
    card = recommending.get("/v1/model").json()
    assert (card["job"], card["items"], card["new_items"]) == ("recommend", 27, ["topic"])
    assert card["metrics"]["scores"]["transformer"]["map@3"]["mean"] >= 0
    assert "names" not in card
    card = classifying.get("/v1/model").json()
    assert (card["job"], card["labels"], card["taxonomy"], card["features"]) == ("classify", 8, True, "ngrams")
    assert 0 <= card["metrics"]["values"]["tuned.micro_f1"] <= 1
    assert re.fullmatch("[0-9a-f]{12}", card["version"])


def test_names_on_demand(recommending):
    def names(**asked):
        return recommending.get("/v1/model", params={"names": True, **asked}).json()["names"]

    assert sorted(names()) == sorted(ITEMS)
    assert len(names(limit=4)) == 4
    assert names(search="ALGEBRA") == ["Algebra", "Linear algebra"]
    assert names(search=RIGHT_TO_LEFT) == [RIGHT_TO_LEFT]
    assert refusal(recommending.get("/v1/model?limit=0")) == (422, "invalid")
    for word in ("true", "1", "yes", "on", "ON"):
        assert "names" in recommending.get("/v1/model", params={"names": word}).json(), word
    for word in ("false", "0", "no", "off"):
        assert "names" not in recommending.get("/v1/model", params={"names": word}).json(), word
    error = recommending.get("/v1/model?names=maybe").json()["error"]
    assert (error["reason"], error["where"]) == ("invalid", "query.names")


def test_the_first_names_are_given_without_a_search():
    class Unread(list):
        def __iter__(self):
            raise AssertionError("all names are read")

    assert _search(Unread("cba"), "", 2) == ["c", "b"]


def test_the_description_has_whether_the_input_is_known(recommending):
    schemas = recommending.get("/openapi.json").json()["components"]["schemas"]
    for name in ("NextItems", "TextAnswer"):
        assert schemas[name]["properties"]["known"] == {"type": "boolean"}
        assert "known" in schemas[name]["required"]
        assert "note" not in schemas[name]["required"]


def test_alive_and_ready(recommending):
    assert recommending.get("/health").json() == {"status": "alive"}
    assert recommending.get("/ready").json() == {"status": "ready"}


def test_requests_are_counted(recommending):
    def counted(path, status):
        text = recommending.get("/metrics").text
        found = re.search(rf'^hyperfocal_requests_total{{path="{path}",status="{status}"}} (\S+)', text, re.MULTILINE)
        return float(found[1]) if found else 0

    before = counted("/v1/recommend", 200), counted("/v1/recommend", 422), counted("other", 404)
    recommending.post("/v1/recommend", json={"histories": [[]]})
    recommending.post("/v1/recommend", json={})
    recommending.get("/nowhere/1")
    after = counted("/v1/recommend", 200), counted("/v1/recommend", 422), counted("other", 404)
    assert [late - early for early, late in zip(before, after, strict=True)] == [1, 1, 1]
    text = recommending.get("/metrics").text
    for name in ("request_seconds_bucket", "batch_rows_sum", "queue_rows"):
        assert f"hyperfocal_{name}" in text
    assert "process_resident_memory_bytes" in text


def test_everything_that_goes_wrong_has_one_form(recommending):
    assert refusal(recommending.get("/nowhere", headers={"Host": "["})) == (403, "foreign_host")
    response = recommending.get("/nowhere")
    assert refusal(response) == (404, "not_found")
    assert response.json()["error"]["message"] == "there is no route /nowhere. GET /docs lists the routes"
    response = recommending.get("/v1/recommend")
    assert refusal(response) == (405, "method_not_allowed")
    assert response.headers["Allow"] == "POST"
    message = recommending.request("OPTIONS", "/health").json()["error"]["message"]
    assert message == "/health does not allow OPTIONS. GET /docs lists the routes"
    assert refusal(recommending.post("/v1/recommend", data={"k": 1})) == (415, "not_json")
    assert refusal(recommending.post("/v1/reload")) == (415, "not_json")  # what a form of another page would send


@pytest.mark.parametrize(
    ("fields", "message", "where"),
    [
        ({"k": 0}, "Expected `int` >= 1", "$.k"),
        ({"new_items": [{"n" * 2_000: 1}]}, "Expected `str` of length <= 1000", "$.new_items[0]"),
        ({"a - at b": 1}, "Object contains unknown field `a - at b`", "$"),
    ],
)
def test_an_invalid_body_names_its_place(recommending, fields, message, where):
    error = recommending.post("/v1/recommend", json={"histories": [["a"]], **fields}).json()["error"]
    assert error == {"reason": "invalid", "message": message, "where": where}


@pytest.mark.parametrize("half", [rb"\ud83d", rb"\ude00", b"\xed\xa0\xbd"])
def test_half_a_character_is_refused(recommending, classifying, half):
    """`\\ud83d` alone: half of an emoji, which must not become another id."""
    for client, route, body in (
        (recommending, "/v1/recommend", b'{"histories": [["Algebra", "%s"]]}'),
        (classifying, "/v1/classify", b'{"texts": ["%s"]}'),
    ):
        response = client.post(route, content=body.replace(b"%s", half), headers={"Content-Type": "application/json"})
        assert refusal(response)[0] == 400


def test_each_reason_in_the_code_is_in_the_table_of_errors():
    code = "".join(path.read_text(encoding="utf-8") for path in PAGES.parent.glob("*.py"))
    reasons = set(re.findall(r'Refusal\(\s*\d+, "(\w+)"', code))
    assert {"not_possible", "failed", "busy"} <= reasons
    table = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    assert [reason for reason in sorted(reasons) if f"`{reason}`" not in table] == []


@pytest.mark.parametrize("streamed", [False, True])
def test_a_body_of_ten_megabytes_is_refused_and_the_connection_goes_on(recommending, streamed):
    body = b'{"histories": [["' + b"a" * 10_000_000 + b'"]]}'
    content = (body[start : start + 65_536] for start in range(0, len(body), 65_536)) if streamed else body
    response = recommending.post("/v1/recommend", content=content, headers={"Content-Type": "application/json"})
    assert refusal(response) == (413, "too_large")
    assert recommending.get("/health").status_code == 200


def test_pages_may_load_nothing_from_elsewhere(recommending):
    response = recommending.get("/")
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert response.headers["Cache-Control"] == "no-store"
    for path in ("/", "/docs"):
        text = recommending.get(path).text
        assert text.startswith('<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n')
        assert text.count("<title>") == text.count("/page/page.css") == 1
    for path in PAGES.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, path.name
        assert "innerHTML" not in text, path.name
        assert not re.search(r"\son\w+=|<script>|style=", text), path.name


def test_the_description_names_every_route_and_resolves(recommending):
    description = recommending.get("/openapi.json").json()
    assert set(description["paths"]) == {
        "/v1/recommend", "/v1/similar", "/v1/classify", "/v1/model", "/v1/reload", "/health", "/ready", "/metrics",
    }  # fmt: skip
    named = set(re.findall(r"#/components/schemas/(\w+)", str(description)))
    for operations in description["paths"].values():
        assert all({"429", "500"} <= operation["responses"].keys() for operation in operations.values())
    assert named <= set(description["components"]["schemas"])


def test_a_key_opens_what_it_should(classify_path, tmp_path):
    elsewhere = shutil.copytree(classify_path, tmp_path / "elsewhere")
    with service(classify_path, key="open sesame") as running, httpx.Client(base_url=running.address) as client:
        for path in ("/", "/docs", "/openapi.json", "/page/page.js", "/health", "/ready"):
            assert client.get(path).status_code == 200, path
        for path in ("/v1/model", "/metrics"):
            assert refusal(client.get(path)) == (401, "no_key")
            for wrong in ("open sesame", "Bearer", "Bearer open", "Bearer open sesame!", "bearer\xe9"):
                assert client.get(path, headers={"Authorization": wrong.encode("latin-1")}).status_code == 401
        right = {"Authorization": "Bearer open sesame"}
        assert client.get("/v1/model", headers=right).status_code == 200
        assert client.post("/v1/classify", json={"texts": ["a"]}).status_code == 401
        assert client.post("/v1/classify", json={"texts": ["a"]}, headers=right).status_code == 200
        assert client.post("/v1/reload", json={}).status_code == 401
        done = client.post("/v1/reload", json={"run": str(elsewhere)}, headers=right | {"Host": "runs.example.org"})
        assert done.json()["run"] == str(elsewhere)


@pytest.mark.parametrize("job", ["recommending", pytest.param("classifying", marks=pytest.mark.slow)])
def test_no_request_that_its_description_allows_or_forbids_breaks_it(request, job, tmp_path):
    address = str(request.getfixturevalue(job).base_url)
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json", "--checks", checks]
    command += [
        "--max-examples",
        "20",
        "--seed",
        "1",
        "--generation-database",
        "none",
        "--suppress-health-check",
        "all",
    ]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout[-6_000:] + ended.stderr[-2_000:]
    assert request.getfixturevalue(job).get("/health").status_code == 200
