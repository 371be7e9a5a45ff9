"""Two nodes of Ray on this machine, a core each: `python ray_nodes.py`, until its input ends.

Says as one line of JSON the cluster's address and the process of each node's raylet, the head's
first.
"""

import json
import sys

from ray.cluster_utils import Cluster

STORE_BYTES = 80 << 20  # Ray takes no less than 75 MiB
SPARE = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}

cluster = Cluster()
try:
    nodes = [
        cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES, **spare)
        for spare in (SPARE, {})
    ]
    raylets = [node.all_processes["raylet"][0].process.pid for node in nodes]
    print(json.dumps({"address": cluster.address, "raylets": raylets}), flush=True)
    sys.stdin.read()
finally:
    cluster.shutdown()
