"""Two hosts on one machine: the curve of one host, and an end when the network between them is cut.

    sudo python tests/robustness/two_hosts.py

The hosts are network namespaces that are joined by a pair of virtual cards; they share the disk, as machines of a
cluster do. `torchrun --nnodes=2` finds the other over that link. The loss curve is compared with one host's. Then a
second job loses the link in mid-run: both ends must end by themselves, with a line, and the same command must go on
from the last state when the link is up again. How long torchrun itself then waits for its store on the other host is
told separately: it gives up when TCP does, for which `net.ipv4.tcp_retries2` is lowered here from 15 to 6.

Progress goes to standard error, the result as JSON to standard output. The exit code is 1 if anything is not as it
should be, and 77 where namespaces cannot be made.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]

from support.trainings import PROJECT, furthest_apart, training_words, write_stories  # noqa: E402

STEPS, TOLERANCE, SKIPPED = 50, 1e-4, 77
NAMES = (f"stories-{os.getpid()}-a", f"stories-{os.getpid()}-b")
CARDS, ADDRESSES = ("stories0", "stories1"), ("10.213.77.1", "10.213.77.2")
PORT = 29_477
TCP_RETRIES = 6


def ip(words: str) -> None:
    """Run the program ip."""
    subprocess.run(["ip", *words.split()], check=True, capture_output=True, text=True)


@contextmanager
def hosts() -> Iterator[None]:
    """Two namespaces with a link between them."""
    try:
        for name in NAMES:
            ip(f"netns add {name}")
        ip(f"link add {CARDS[0]} netns {NAMES[0]} type veth peer name {CARDS[1]} netns {NAMES[1]}")
        for name, card, address in zip(NAMES, CARDS, ADDRESSES, strict=True):
            ip(f"-n {name} addr add {address}/24 dev {card}")
            ip(f"-n {name} link set {card} up")
            ip(f"-n {name} link set lo up")
            command = f"echo {TCP_RETRIES} > /proc/sys/net/ipv4/tcp_retries2"
            subprocess.run(
                ["ip", "netns", "exec", name, "sh", "-c", command], check=True, capture_output=True, text=True
            )
        yield
    finally:
        for name in NAMES:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def start(host: int, words: list[str], folder: Path, job: str) -> tuple[subprocess.Popen[str], Path]:
    """One host's torchrun, and what it says."""
    log = folder / f"{job}-host-{host}.log"
    environment = {
        **os.environ,
        "PYTHONPATH": str(PROJECT / "src"),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "300",
        "GLOO_SOCKET_IFNAME": CARDS[host],
    }
    command = [
        *["ip", "netns", "exec", NAMES[host], sys.executable, "-m", "torch.distributed.run"],
        *["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-id={job}"],
        *[f"--rdzv-endpoint={ADDRESSES[0]}:{PORT}", f"--local-addr={ADDRESSES[host]}"],
        *[f"--rdzv-conf=is_host={int(host == 0)},read_timeout=10"],
        *[str(PROJECT / "src" / "run_training.py"), *words[1:]],
    ]
    folder.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=file, text=True), log


def both(words: list[str], folder: Path) -> tuple[list[subprocess.Popen[str]], list[Path]]:
    """A job on both hosts."""
    job = uuid.uuid4().hex[:8]
    started = [start(host, words, folder, job) for host in (0, 1)]
    return [process for process, _ in started], [log for _, log in started]


def finish(processes: list[subprocess.Popen[str]], logs: list[Path], seconds: float) -> list[float]:
    """Seconds until each has ended; what takes longer is killed, and is an error."""
    began, took = time.monotonic(), [0.0, 0.0]
    while any(process.poll() is None for process in processes):
        for index, process in enumerate(processes):
            if process.poll() is None:
                took[index] = round(time.monotonic() - began, 1)
        if time.monotonic() - began > seconds:
            for process in processes:
                process.kill()
            raise SystemExit(f"no end after {seconds} seconds\n" + "\n".join(log.read_text()[-3000:] for log in logs))
        time.sleep(0.05)
    return took


def wait_for_step(folder: Path, step: int, processes: list[subprocess.Popen[str]], logs: list[Path]) -> None:
    """Return when a step is recorded."""
    metrics = folder / "checkpoints" / "metrics.jsonl"
    while not metrics.exists() or f'"step":{step},' not in metrics.read_text():
        if any(process.poll() is not None for process in processes):
            raise SystemExit("a job ended early\n" + "\n".join(log.read_text()[-3000:] for log in logs))
        time.sleep(0.02)


def end_all(processes: list[subprocess.Popen[str]]) -> None:
    """End what is still there when this script fails."""
    for process in processes:
        if process.poll() is None:
            process.terminate()


def main() -> int:
    """Run the three parts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--timeout", type=float, default=10.0, help="--process-timeout of the jobs, in seconds")
    parser.add_argument("--end-within", type=float, default=300.0, help="seconds after which a job must have ended")
    given = parser.parse_args()
    say = Console(stderr=True).print
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None:
        say("skipped: network namespaces need Linux, root and the program ip")
        return SKIPPED
    with tempfile.TemporaryDirectory(prefix="hosts-") as name:
        folder, data = Path(name), Path(name) / "stories.jsonl"
        write_stories(data)
        more = ["--save-interval", "10", "--eval-interval", "25", "--process-timeout", str(given.timeout)]
        words = {ranks: training_words(data, steps=STEPS, ranks=ranks, more=more) for ranks in (1, 2)}
        say("one host")
        alone = folder / "alone"
        alone.mkdir()
        environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(PROJECT / "src" / "run_training.py"), *words[1][1:]]
        subprocess.run(command, cwd=alone, env=environment, check=True, capture_output=True)
        processes: list[subprocess.Popen[str]] = []
        try:
            with hosts():
                say("two hosts")
                processes, logs = both(words[2], folder / "two")
                finish(processes, logs, 300)
                codes = [process.returncode for process in processes]
                apart = furthest_apart(alone, folder / "two")
                say("two hosts, and the link is cut")
                cut = folder / "cut"
                processes, logs = both(words[2], cut)
                wait_for_step(cut, 22, processes, logs)
                ip(f"-n {NAMES[1]} link set {CARDS[1]} down")
                began, spoken = time.monotonic(), [0.0, 0.0]
                while not all(spoken) and time.monotonic() - began < given.end_within:
                    for index, log in enumerate(logs):
                        if not spoken[index] and "error: " in log.read_text():
                            spoken[index] = round(time.monotonic() - began, 1)
                    time.sleep(0.05)
                took = finish(processes, logs, given.end_within)
                cut_codes = [process.returncode for process in processes]
                lines = [[x for x in log.read_text().splitlines() if x.startswith("error: ")] for log in logs]
                say("the same command again")
                ip(f"-n {NAMES[1]} link set {CARDS[1]} up")
                processes, logs = both(words[2], cut)
                finish(processes, logs, 300)
                again_codes = [process.returncode for process in processes]
                resumed = [x for log in logs for x in log.read_text().splitlines() if x.startswith("resuming from")]
                apart_again = furthest_apart(alone, cut)
        except subprocess.CalledProcessError as error:
            if error.cmd[0] != "ip":
                raise
            say(f"skipped: {' '.join(error.cmd)}: {error.stderr.strip()}")
            return SKIPPED
        finally:
            end_all(processes)
    result: dict[str, Any] = {
        "two_hosts": {"exit_codes": codes, "largest_difference_nats": apart},
        "link_cut": {
            "exit_codes": cut_codes,
            "seconds_until_the_line": spoken,
            "seconds_of_torchrun_after_it": took,
            "lines": lines,
        },
        "started_again": {"exit_codes": again_codes, "said": resumed, "largest_difference_nats": apart_again},
        "tolerance_nats": TOLERANCE,
        "process_timeout_seconds": given.timeout,
    }
    print(json.dumps(result, indent=1))
    good = (
        not any([*codes, *again_codes])
        and all(cut_codes)
        and max(apart, apart_again) < TOLERANCE
        and all(len(of_one) == 1 for of_one in lines)
        and len(resumed) == 1
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
