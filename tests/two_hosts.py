"""Trains across two hosts that are network namespaces of this machine, and makes their life hard.

make hosts, as root on Linux; or python tests/two_hosts.py TRIAL ..., by the names of the functions below

Each host has its own network interface at one end of a cable (a veth pair), its own torchrun, and its own directory
with the text; the two meet by torchrun's c10d rendezvous. The run directory is on host a alone. Each trial ends when
the training does, and its weights must be those of one process. Where the kernel gives no namespaces, the script says
why and does nothing.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file

EAGER = Path(__file__).parent / "eager.py"
TEXT = " ".join(f"{n} is {n * n % 97}, and {n * n * n % 89} comes next." for n in range(400))
TRAIN = "train text.txt -o run --hidden 64 --streams 8 --bptt 32 --steps 1000 --json"
ADDRESSES = {"a": "10.77.0.1", "b": "10.77.0.2"}
SECONDS = 300


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextmanager
def two_hosts(name: str) -> Iterator[None]:
    """Hosts a and b, joined by a cable; its ends are called eth0."""
    try:
        for host in ADDRESSES:
            ip("netns", "add", f"{name}-{host}")
        ip("link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b")
        for host, address in ADDRESSES.items():
            ip("link", "set", f"{name}{host}", "netns", f"{name}-{host}", "name", "eth0")
            ip("-n", f"{name}-{host}", "address", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", f"{name}-{host}", "link", "set", device, "up")
        yield
    finally:
        for host in ADDRESSES:
            subprocess.run(["ip", "netns", "delete", f"{name}-{host}"], capture_output=True)


class Trial:
    """A training on both hosts."""

    def __init__(self, name: str, at: Path) -> None:
        self.name, self.at = name, at
        for host in ADDRESSES:
            (at / host).mkdir(parents=True)
            (at / host / "text.txt").write_text(TEXT)
        self.agents = {host: self.start(host) for host in ADDRESSES}

    def start(self, host: str) -> subprocess.Popen[bytes]:
        """torchrun on a host."""
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
        meeting = ["--rdzv-backend", "c10d", "--rdzv-id", "trial", "--rdzv-endpoint", f"{ADDRESSES['a']}:29400"]
        here = ["--rdzv-conf", f"is_host={host == 'a'}", "--local-addr", ADDRESSES[host], "--max-restarts", "3"]
        return subprocess.Popen(
            [
                "ip",
                "netns",
                "exec",
                f"{self.name}-{host}",
                *torchrun,
                *meeting,
                *here,
                str(EAGER),
                *TRAIN.split(),
            ],
            cwd=self.at / host,
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth0"},
            stdout=subprocess.DEVNULL,
            stderr=(self.at / f"{host}.err").open("ab"),
        )

    def worker(self, host: str) -> int:
        agent = self.agents[host].pid
        (child,) = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
        return int(child)

    def log(self) -> list[dict[str, object]]:
        file = self.at / "a" / "run" / "log.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def until(self, step: int, seconds: float = SECONDS) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if any(event["event"] == "steps" and event["step"] >= step for event in self.log()):  # type: ignore[operator]
                return
            if any(agent.poll() for agent in self.agents.values()):
                break
            time.sleep(0.05)
        raise SystemExit(f"step {step} was not reached:\n{(self.at / 'a.err').read_text()[-3000:]}")

    def end(self) -> None:
        for host, agent in self.agents.items():
            if agent.wait(timeout=SECONDS):
                raise SystemExit(f"host {host} failed:\n{(self.at / f'{host}.err').read_text()[-3000:]}")

    def stop(self) -> None:
        for agent in self.agents.values():
            if agent.poll() is None:
                agent.terminate()
                agent.wait()


def nothing(trial: Trial) -> None:
    """nothing happens"""


def kill_a_follower(trial: Trial) -> None:
    """the worker on host b is killed with -9"""
    os.kill(trial.worker("b"), signal.SIGKILL)


def kill_the_leader(trial: Trial) -> None:
    """the worker on host a, which saves, is killed with -9"""
    os.kill(trial.worker("a"), signal.SIGKILL)


def pull_the_cable(trial: Trial) -> None:
    """the cable is out for three seconds"""
    ip("-n", f"{trial.name}-b", "link", "set", "eth0", "down")
    time.sleep(3)
    ip("-n", f"{trial.name}-b", "link", "set", "eth0", "up")


TRIALS: list[Callable[[Trial], None]] = [nothing, kill_a_follower, kill_the_leader, pull_the_cable]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "weights.safetensors")


def main() -> None:
    name = f"bptt{os.getpid() % 100_000}"
    try:
        with two_hosts(name):
            pass
    except (OSError, subprocess.CalledProcessError) as error:
        reason = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
        print(f"Left out: two hosts, for which network namespaces are needed (Linux, as root): {reason}")
        sys.exit("REQUIRE_ALL" in os.environ)
    directory = Path(tempfile.mkdtemp(prefix="two-hosts-"))
    (directory / "text.txt").write_text(TEXT)
    alone = [sys.executable, str(EAGER), *TRAIN.split()]
    subprocess.run(alone, cwd=directory, check=True, stdout=subprocess.DEVNULL)
    expected = weights(directory / "run")
    for happening in TRIALS:
        if sys.argv[1:] and happening.__name__ not in sys.argv[1:]:
            continue
        started = time.monotonic()
        with two_hosts(name):
            trial = Trial(name, directory / happening.__name__)
            try:
                trial.until(200)
                happening(trial)
                trial.end()
            finally:
                trial.stop()
        if (trial.at / "b" / "run").exists():
            raise SystemExit("host b must not write a run directory; it has one")
        found = weights(trial.at / "a" / "run")
        furthest = max(float((found[key] - value).abs().max()) for key, value in expected.items())
        resumed = [event["step"] for event in trial.log() if event["event"] == "resume"]
        again = f", went on from step {', '.join(map(str, resumed))}" if resumed else ""
        said = (happening.__doc__ or "").strip()
        print(
            f"{said}: done{again}; weights {furthest:.1e} from those of one process, "
            f"{time.monotonic() - started:.0f} s",
            flush=True,
        )
        if furthest > 1e-4 or bool(resumed) != (happening not in (nothing, pull_the_cable)):
            raise SystemExit("these are not the weights that were to be reached, or not by the way that was meant")
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()
