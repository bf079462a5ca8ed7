"""nginx's stream `return`, one process, no log. `python -m bench.servers.nginx NGINX FOLDER` becomes nginx."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from bench.servers import BACKLOG, GREETING, HOST, ready

CONFIGURATION = """\
{load}
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr crit;
worker_rlimit_nofile 20000;
events {{ worker_connections 16384; }}
stream {{ server {{ listen {host}:{port} backlog={backlog}; return "{greeting}"; }} }}
"""
MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


def main(nginx: str, folder: str) -> None:
    """Take a port that is free, write the configuration, say the port, become nginx."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    settings = Path(folder, "nginx.conf")
    settings.write_text(
        CONFIGURATION.format(
            load=f"load_module {MODULE};" if MODULE.exists() else "",
            folder=folder,
            host=HOST,
            port=port,
            backlog=BACKLOG,
            greeting=GREETING.decode("ascii"),
        ),
        encoding="ascii",
        newline="",
    )
    ready(port)
    os.execv(nginx, [nginx, "-e", "stderr", "-c", str(settings)])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
