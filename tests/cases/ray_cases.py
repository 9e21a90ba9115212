"""A Ray cluster of two nodes with one CPU each, run by a separate process.

`python ray_cases.py` starts one, prints its address, obeys each line of stdin, and ends the cluster with the last line
or when the process that started it is gone:

    kill node    the second node
    add node     one more
    kill head    the process that every node and driver asks
"""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
HERE = Path(__file__).parent
TRIES = 5
STORE = 100 * 2**20  # bytes of a node's object store
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}


class Nodes:
    """The cluster, from outside."""

    def __init__(self, process: subprocess.Popen) -> None:
        self._process = process
        self.address = self._read()

    def tell(self, line: str) -> None:
        """Send a line to the cluster's process, and wait until it is done."""
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        assert self._read() == "done"

    def _read(self) -> str:
        for line in self._process.stdout:  # Ray says things too
            if line.startswith("> "):
                return line[2:].strip()
        raise AssertionError("the process of the cluster ended")


@contextmanager
def two_nodes():
    """Start a cluster, give it, and end it."""
    variables = os.environ | QUIET | {"PYTHONPATH": os.pathsep.join([*filter(None, sys.path), str(HERE)])}
    command = [sys.executable, "-u", str(HERE / "ray_cases.py")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=variables
    ) as process:
        yield Nodes(process)
        process.stdin.close()
        for _ in process.stdout:
            pass


def started(start: Callable[[], T]) -> T:
    """Return the result of `start`, retried: on a busy machine Ray gives up on a node after 15 s."""
    for left in reversed(range(TRIES)):
        try:
            return start()
        except Exception as error:
            print(error, flush=True)
            if not left:
                raise
    raise AssertionError("not reached")


def main() -> None:
    """Run the process of a cluster."""
    from ray.cluster_utils import Cluster

    share = {"num_cpus": 1, "object_store_memory": STORE}
    head = share | {"include_dashboard": False}
    cluster = started(lambda: Cluster(initialize_head=True, head_node_args=head))
    try:
        nodes = [started(lambda: cluster.add_node(**share))]
        print(f"> {cluster.address}")
        for line in sys.stdin:
            if line == "kill node\n":
                cluster.remove_node(nodes.pop(), allow_graceful=False)
            elif line == "add node\n":
                nodes.append(started(lambda: cluster.add_node(**share)))
            elif line == "kill head\n":
                cluster.head_node.kill_gcs_server(check_alive=False)
            print("> done")
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
