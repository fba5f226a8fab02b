"""A unit of systemd that runs a command of hwgen from the start of the system on."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["service_unit"]

#: Seconds beyond those of running answers in which the server gives its memory back.
SPARE_SECONDS = 30

UNIT = """\
[Unit]
Description=hwgen {command}
Wants=network-online.target
After=network-online.target

[Service]
User=root
WorkingDirectory={directory}
# a login shell: files of /etc/profile.d name the board and say where XRT is
ExecStart=/bin/bash -lc {line}
TimeoutStopSec={stop}
Restart=on-failure
RestartSec=5
# wrong options do not get better
RestartPreventExitStatus=2

[Install]
WantedBy=multi-user.target
"""


def service_unit(arguments: Sequence[str], drain_seconds: int) -> str:
    """The unit of ``hwgen`` with these arguments, in the working directory and with the Python of this process."""
    words = [word for word in arguments if word not in ("--systemd", "--json")]
    command = shlex.join([sys.executable, "-m", "hwgen.sw.cli.main", *words])
    # systemd has quotes, specifiers and variables of its own
    line = f"exec {command}".replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return UNIT.format(
        command=" ".join(words).replace("%", "%%"), directory=str(Path.cwd()).replace("%", "%%"), line=f'"{line}"',
        stop=drain_seconds + SPARE_SECONDS,
    )
