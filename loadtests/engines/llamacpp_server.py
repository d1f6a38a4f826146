"""The process that is the embedded llama.cpp engine: its HTTP server, inside Python.

Run by path, with nothing of Headroom's imported. The server's threads are C++; SIGTERM and SIGINT
keep their default action, which ends the process even while a model loads.
"""

from __future__ import annotations

import argparse
import signal
import sys

__all__ = ["main"]

_SPARE_HTTP_THREADS = 64
_ERRORS_ONLY = 1


def main() -> str:
    """Load the model, serve it, print the address, and wait to be ended.

    Returns:
        Why the server could not be started, for ``sys.exit``.
    """
    options = _options()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from xllamacpp import CommonParams, Server

    params = CommonParams()
    params.model.path = options.model
    params.model_alias = {options.name}
    params.hostnames = [options.host]
    params.port = options.port
    params.n_parallel = options.parallel
    params.n_ctx = options.context * options.parallel  # the total over all slots
    params.cont_batching = True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.n_gpu_layers = options.gpu_layers
    params.fit_params = False  # use what is asked, or fail
    params.cache_ram_mib = 0  # old prompts would be kept in up to 8 GiB of memory
    # Every waiting request holds a thread; with the default of slots + 4 a queue of requests would
    # shut out /slots and /metrics, by which the queue is watched.
    params.n_threads_http = options.parallel + _SPARE_HTTP_THREADS
    params.endpoint_metrics = params.endpoint_slots = params.endpoint_props = True
    params.use_jinja = True
    params.verbosity = _ERRORS_ONLY
    try:
        server = Server(params)
    except RuntimeError as error:  # llama.cpp has printed why
        return f"xllamacpp: {error}"
    print(server.listening_address, flush=True)  # noqa: T201 - a program's output
    while True:
        signal.pause()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a GGUF file")
    parser.add_argument("--name", required=True, help="the model's name on the wire")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--parallel", type=int, default=4, help="slots")
    parser.add_argument("--context", type=int, default=2048, help="tokens per slot")
    parser.add_argument("--threads", type=int, default=1)
    # For who looks at the process: the wheel's server itself calls its build b0-unknown.
    parser.add_argument("--release", help="the wheel and its version")
    parser.add_argument("--gpu-layers", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
