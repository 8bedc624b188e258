"""Serves a model by llama.cpp's own server, which the package `xllamacpp` contains: `llamacpp.py MODEL PORT`."""

import sys
import threading

import lifeline
import xllamacpp

SLOTS = 8
CONTEXT_PER_SLOT = 1024
# From this level on each request that reaches a slot is logged.
VERBOSITY = 3

lifeline.hold()
parameters = xllamacpp.CommonParams()
parameters.model.path = sys.argv[1]
parameters.model_alias = {"tiny"}
parameters.hostnames = ["127.0.0.1"]
parameters.port = int(sys.argv[2])
parameters.n_parallel = SLOTS
parameters.n_ctx = SLOTS * CONTEXT_PER_SLOT
parameters.cpuparams.n_threads = 1
parameters.cpuparams_batch.n_threads = 1
parameters.endpoint_metrics = True
parameters.cache_ram_mib = 0
parameters.fit_params = False
parameters.ui = False
parameters.verbosity = VERBOSITY
server = xllamacpp.Server(parameters)
print("listening at", server.listening_address, flush=True)
threading.Event().wait()
