"""A stand-in for vLLM's server: standard library only, told by its arguments how to misbehave.

`python fake_vllm.py PORT MODEL [behaviour ...]` serves /health and, to who knows VLLM_API_KEY, /v1/models. Behaviours:
`start=S` seconds before it binds; `die=S` ends S seconds after start with status 3; `once=FILE` misbehaves only while
FILE is absent, and creates it; `hang=S` stops answering after S seconds; `fail=TEXT` prints TEXT and ends with status
1; `ignore_term`; `child`, a sleeping child in the same group; `escape`, one in a session of its own; `clash=FILE`
says that the port is taken while FILE is absent. Every process that it starts carries `tag=...` from its arguments.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def main(port: int, model: str, behaviours: dict[str, str]) -> None:
    began = time.monotonic()
    if "once" in behaviours and Path(behaviours["once"]).exists():
        behaviours = {name: value for name, value in behaviours.items() if name not in ("die", "hang", "ignore_term")}
    elif "once" in behaviours:
        Path(behaviours["once"]).touch()
    if "ignore_term" in behaviours:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tag = f"tag={behaviours.get('tag', '')}"
    for behaviour in ("child", "escape"):
        if behaviour in behaviours:
            sleeper = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
            subprocess.Popen([sys.executable, "-c", sleeper, tag], start_new_session=behaviour == "escape")
    print(f"loading {model}", flush=True)
    if "fail" in behaviours:
        sys.exit(behaviours["fail"].format(key=os.environ["VLLM_API_KEY"]))
    if "clash" in behaviours and not Path(behaviours["clash"]).exists():
        Path(behaviours["clash"]).write_text(str(port))
        sys.exit("OSError: [Errno 98] Address already in use")
    time.sleep(float(behaviours.get("start", 0)))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            while time.monotonic() - began > float(behaviours.get("hang", "inf")):
                time.sleep(0.1)
            known = self.headers.get("Authorization") == f"Bearer {os.environ['VLLM_API_KEY']}"
            well = self.path == "/health" or known
            body = b"" if self.path == "/health" else json.dumps({"data": [{"id": model}]}).encode()
            self.send_response(200 if well else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    if "die" in behaviours:
        threading.Timer(float(behaviours["die"]), os._exit, [3]).start()
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    pairs = (argument.partition("=") for argument in sys.argv[3:])
    main(int(sys.argv[1]), sys.argv[2], {name: value for name, _, value in pairs})
