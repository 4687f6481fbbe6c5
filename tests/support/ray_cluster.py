"""A Ray cluster of node processes on this machine; see test_ray.py.

Prints its address. A line on standard input kills a node; its end ends all.
"""

import sys
import warnings
from typing import Any

warnings.simplefilter("ignore")
from ray.cluster_utils import Cluster  # noqa: E402

STORE = 100 << 20
"""Bytes of shared memory of each node."""


def main():
    small: dict[str, Any] = {"object_store_memory": STORE}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    # One says that it has a card.
    nodes = [cluster.add_node(num_cpus=1, num_gpus=cards, **small) for cards in (1, 0)]
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)
    for _ in sys.stdin:
        cluster.remove_node(nodes.pop(), allow_graceful=False)
        print("killed", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
