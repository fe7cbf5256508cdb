"""`push_to_hub`: only where asked, private, with the token of the environment, over the hub's own protocol."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.export.runs import answer, write_run

ROOT = Path(__file__).parent.parent.parent


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's API as an upload needs. What was asked is in `asked`, what was committed in `files`."""

    asked: list[tuple[str, str, Any]]
    files: dict[str, bytes]
    refuses = False

    def log_message(self, *words: Any) -> None:
        pass

    def _answer(self, content: Any, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self._answer([] if "/tree/" in self.path else {"sha": "0" * 40, "siblings": [], "id": "me/mine"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked.append((self.path, self.headers.get("Authorization", ""), body))
        if type(self).refuses:
            self._answer({"error": "not yours"}, 403)
        elif self.path == "/api/repos/create":
            self._answer({"url": f"http://{self.headers['Host']}/datasets/me/mine"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self._answer(
                {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]}
            )
        elif "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            url = f"http://{self.headers['Host']}/datasets/me/mine/commit/{'0' * 40}"
            self._answer({"commitUrl": url, "commitOid": "0" * 40, "success": True})
        else:
            self._answer({})


@pytest.fixture
def hub() -> Iterator[tuple[type[Hub], str]]:
    class Fresh(Hub):
        asked, files = [], {}

    server = ThreadingHTTPServer(("127.0.0.1", 0), Fresh)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield Fresh, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def export(folder: Path, url: str, *words: str, token: str | None = "hf_secret") -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "HF_ENDPOINT": url, "HOME": str(folder), "HF_HUB_DISABLE_TELEMETRY": "1",
                   **({"HF_TOKEN": token} if token else {})}  # fmt: skip
    command = [sys.executable, "-m", "factory", "export", f"out={folder}/one", f"to={folder}/to", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_an_export_is_uploaded_as_it_is(tmp_path: Path, hub: tuple[type[Hub], str]) -> None:
    seen, url = hub
    write_run(tmp_path, [answer(f"p{n}") for n in range(3)])
    done = export(tmp_path, url, "push_to_hub=me/mine")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1] == f"{url}/datasets/me/mine"
    asked = json.loads(seen.asked[0][2])
    assert (seen.asked[0][0], asked["type"]) == ("/api/repos/create", "dataset")
    assert asked.get("visibility") == "private" or asked.get("private") is True
    assert {token for _, token, _ in seen.asked} == {"Bearer hf_secret"}
    there = {
        str(file.relative_to(tmp_path / "to")): file.read_bytes()
        for file in (tmp_path / "to").rglob("*")
        if file.is_file()
    }
    assert seen.files == there
    assert not any(b"hf_secret" in content for content in there.values())


def test_nothing_is_uploaded_without_being_asked(tmp_path: Path, hub: tuple[type[Hub], str]) -> None:
    seen, url = hub
    write_run(tmp_path, [answer()])
    assert export(tmp_path, url).returncode == 0
    assert seen.asked == []
    done = export(tmp_path, url, "push_to_hub=me/mine", token=None)
    assert (done.returncode, seen.asked) == (2, [])
    assert "export HF_TOKEN=" in done.stderr
    done = export(tmp_path, url, "push_to_hub=mine")
    assert "push_to_hub=mine: should be owner/name" in done.stderr


def test_a_hub_that_refuses_is_told_and_the_export_stays(tmp_path: Path, hub: tuple[type[Hub], str]) -> None:
    seen, url = hub
    seen.refuses = True
    write_run(tmp_path, [answer()])
    done = export(tmp_path, url, "push_to_hub=me/mine", "private=false")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "The export itself is in" in done.stderr
    assert (tmp_path / "to/part-00000.parquet").exists()
    asked = json.loads(seen.asked[0][2])
    assert asked.get("visibility") != "private" and not asked.get("private")
