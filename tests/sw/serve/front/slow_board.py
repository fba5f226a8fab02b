"""A board in a process of its own, which can be killed: the small model on a golden device whose passes take long."""

from __future__ import annotations

import socket
import sys
import time

from hwgen.sw.runtime.llm import LLM
from hwgen.sw.serve.app import create_app
from hwgen.sw.serve.server import Server
from hwgen.sw.serve.service import Limits, Service
from hwgen.sw.serve.services import Services

from ...conftest import CONFIG
from ..conftest import delay

PASS_SECONDS = 0.1


def main() -> None:
    llm = LLM(sys.argv[1], "golden", CONFIG, cache_tokens=256)
    delay(llm.device, lambda: time.sleep(PASS_SECONDS))
    services = Services([Service(llm, limits=Limits(sessions=1))])
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        print(listener.getsockname()[1], flush=True)
        Server(create_app(services), services).run(sockets=[listener])


if __name__ == "__main__":
    main()
