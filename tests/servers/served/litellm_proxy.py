"""Serves LiteLLM's proxy: `litellm_proxy.py CONFIGURATION PORT`."""

import sys

import lifeline
from litellm import run_server

lifeline.hold()
run_server(
    ["--config", sys.argv[1], "--host", "127.0.0.1", "--port", sys.argv[2], "--num_workers", "1"],
    standalone_mode=False,
)
