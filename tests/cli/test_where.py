"""The options that say where the points of a grid are trained: what is refused before anything is written."""

import pytest

from command_cases import names_below, refused

pytest.importorskip("ray")
CLASSIFY = ("classify", "--caps", "none", "--gammas", "none,2", "--text", "title")
RECOMMEND = ("recommend", "--encoders", "gru,mean")
LOG = "user,item\n" + "".join(f"u{user},i{(user + step) % 7}\n" for user in range(9) for step in range(6))


@pytest.fixture(params=[CLASSIFY, RECOMMEND], ids=["classify", "recommend"])
def grid(request, folder, tmp_path):
    """Return a function that runs the grid command of a job, which has to refuse, and gives its error."""
    job, *axes = request.param
    (tmp_path / "log.csv").write_text(LOG)
    train = folder / "train.jsonl" if job == "classify" else tmp_path / "log.csv"

    def run(*options):
        error = refused(job, "grid", train, *axes, "--out", tmp_path / "grid", *options)
        assert "grid" not in names_below(tmp_path)
        return error

    return run


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--cpus", 2), "--cpus: for points on a Ray cluster. Give --ray ADDRESS too"),
        (("--gpus", 0.5, "--cpus", 1), "--cpus and --gpus: for points on a Ray cluster"),
        (("--ray", "auto", "--cpus", 0), "--cpus 0 is not allowed. Expected 1 or more"),
        (("--ray", "auto", "--gpus", 1.5), "--gpus 1.5 is not allowed. Expected a fraction of one GPU"),
        (("--ray", "auto", "--workers", 0), "--workers 0 is not allowed. Expected 1 or more"),
        (("--ray", "somewhere"), "--ray 'somewhere' is not allowed. Expected auto, local, or HOST:PORT"),
        (("--ray", "ray://127.0.0.1:10001"), "run this command on one of its nodes"),
        (("--ray", "127.0.0.1:1"), "no Ray cluster answers"),
    ],
)
def test_what_is_no_place_is_refused(grid, options, error):
    assert error in grid(*options)


def test_without_ray_it_is_said_how_to_get_it(grid, monkeypatch):
    monkeypatch.setattr("hyperfocal.grid.ray_cluster.find_spec", lambda _: None)
    assert "pip install 'hyperfocal[ray]'" in grid("--ray", "local")
