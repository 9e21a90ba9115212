"""Who may swap which run in where no key says it: POST /v1/reload over real HTTP."""

import shutil

import pytest


def refusal(response):
    return response.status_code, response.json()["error"]["reason"]


def reload(client, run, **headers):
    return client.post("/v1/reload", json={"run": str(run)}, headers=headers)


@pytest.fixture(scope="module")
def elsewhere(recommend_path, tmp_path_factory):
    return shutil.copytree(recommend_path, tmp_path_factory.mktemp("elsewhere") / "run")


def test_the_run_itself_and_those_beside_it_are_swapped_in(recommending, recommend_path):
    beside = shutil.copytree(recommend_path, recommend_path.with_name("beside"))
    for run in (beside, recommend_path, beside / ".." / recommend_path.name):
        done = reload(recommending, run)
        assert (done.status_code, done.json()["run"]) == (200, str(run))
    assert recommending.post("/v1/reload", json={}).status_code == 200


def test_no_other_folder_is(recommending, recommend_path, elsewhere):
    link = recommend_path.with_name("link")
    link.symlink_to(elsewhere)
    loop = recommend_path.with_name("loop")
    loop.symlink_to(loop)
    inside = shutil.copytree(recommend_path, recommend_path / "inside")
    before = recommending.get("/v1/model").json()
    around = recommend_path / ".." / ".." / elsewhere.parent.name / elsewhere.name
    for run in (elsewhere, link, around, inside, recommend_path.parent, "/etc", "/"):
        assert refusal(reload(recommending, run)) == (403, "outside"), run
    assert reload(recommending, loop).status_code == 422
    error = reload(recommending, elsewhere).json()["error"]
    assert error["where"] == "$.run"
    assert str(recommend_path.resolve().parent) in error["message"]
    assert recommending.get("/v1/model").json() == before
    shutil.rmtree(inside)


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:8000", "localhost.evil.example", "10.0.0.1", "["]
)
def test_a_name_that_is_none_of_this_machine_is_refused(recommending, recommend_path, host):
    assert refusal(reload(recommending, recommend_path, Host=host)) == (403, "foreign_host")
    assert recommending.get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "[::1]:8000"])
def test_names_of_this_machine_are_taken(recommending, recommend_path, host):
    assert reload(recommending, recommend_path, Host=host).status_code == 200


def test_a_client_of_another_machine_behind_a_proxy_of_this_one_is_refused(recommending, recommend_path):
    headers = {"X-Forwarded-For": "203.0.113.9"}
    assert refusal(reload(recommending, recommend_path, **headers)) == (401, "no_key")
