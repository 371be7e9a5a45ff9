"""Runs rosbridge_suite's own server of ROS 2 from its source: suite.py SOURCE PORT.

Of it `rosbridge_msgs` alone is left out, which would have to be compiled: nobody is told who is
connected.
"""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

source, port = Path(sys.argv[1]), sys.argv[2]
for part in ("rosbridge_library/src", "rosbridge_server/src", "rosbridge_server/scripts"):
    sys.path.insert(0, str(source / part))


class ClientManager:
    def __init__(self, node_handle):
        pass

    def add_client(self, client_id, ip_address):
        pass

    def remove_client(self, client_id, ip_address):
        pass


module = ModuleType("rosbridge_server.client_manager")
module.ClientManager = ClientManager  # type: ignore[attr-defined]
sys.modules["rosbridge_server.client_manager"] = module
sys.argv = ["rosbridge_websocket", "--port", port, "--address", "127.0.0.1"]

import_module("rosbridge_websocket").main()
