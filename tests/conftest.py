import httpx
import pytest
from hypothesis import settings

from serve_cases import classify_run, recommend_run, service

settings.register_profile("loaded", deadline=None)  # a loaded machine stops a test for a moment
settings.load_profile("loaded")


@pytest.fixture(scope="session")
def recommend_path(tmp_path_factory):
    return recommend_run(tmp_path_factory.mktemp("runs") / "courses")


@pytest.fixture(scope="session")
def classify_path(tmp_path_factory):
    return classify_run(tmp_path_factory.mktemp("runs") / "drinks")


@pytest.fixture(scope="session")
def recommending(recommend_path):
    """Return a client of a service that recommends."""
    with service(recommend_path) as running, httpx.Client(base_url=running.address, timeout=30) as client:
        yield client


@pytest.fixture(scope="session")
def classifying(classify_path):
    """Return a client of a service that classifies."""
    with service(classify_path) as running, httpx.Client(base_url=running.address, timeout=30) as client:
        yield client
