"""kill -9 at random moments, again and again: `make torture`, or `make torture N=1000`.

    python tests/torture.py [--kills 20] [--seed 0]

A training that saves at every step is killed at a random moment and gone on with, `--kills` times; half of the moments
lie inside a save. In the end its weights are compared, byte for byte, with those of a training nobody disturbed, and
its log is read. Every tenth time the newest checkpoint is also cut short or changed by a bit before it goes on. Says
what it did; exit code 1 where a byte differs. Needs fork: Linux or macOS.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import torch
from cases import weights_in

from bptt import runs
from bptt.errors import DamagedFileWarning
from bptt.files import disk, owned
from bptt.tasks import Text, data
from bptt.tasks.text import Recipe
from bptt.train import loop

STEPS_PER_KILL = 40


def trained(path: Path, source: Path, recipe: Recipe) -> None:
    """Trains to the end, from the beginning or from where the directory's checkpoint stands."""
    holds_run = any((path / name).exists() for name in (runs.CHECKPOINT, runs.PREVIOUS))
    run, training = (
        runs.resume(path) if holds_run else runs.start(path, Text(data.read(source), recipe), overwrite=True)
    )
    training.run(watch=run.watch, save=run.save)


def child(path: Path, source: Path, recipe: Recipe, ready: int, in_save: bool) -> None:
    """Trains with a save at every step; tells when it has begun, or the first time it is about to write a file."""
    loop.SECONDS_PER_SAVE = 0.0
    torch.set_num_threads(1)
    if in_save:
        write = disk._write_synced
        told = False

        def write_and_tell(at: Path, content: bytes) -> None:
            nonlocal told
            if not told:
                os.write(ready, b"!")
                told = True
            write(at, content)

        disk._write_synced = write_and_tell
    else:
        os.write(ready, b"!")
    trained(path, source, recipe)


def killed(path: Path, source: Path, recipe: Recipe, draw: random.Random) -> tuple[str, int | None]:
    """Where the training was killed: "in a save" or "anywhere"; and its exit code, if it was through before."""
    in_save = draw.random() < 0.5
    begun, ready = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(begun)
        code = 1
        try:
            warnings.simplefilter("ignore", DamagedFileWarning)
            child(path, source, recipe, ready, in_save)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(ready)
    os.read(begun, 1)
    os.close(begun)
    time.sleep(draw.random() * (0.004 if in_save else 0.4))
    os.kill(process, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"The training ended by itself with exit code {code}, seed and kill as above.")
    return "in a save" if in_save else "anywhere", code if code == 0 else None


def damaged(path: Path, draw: random.Random) -> str | None:
    """Cuts the newest checkpoint short or turns a bit of it round, where there is one before it."""
    file = path / runs.CHECKPOINT
    if not file.exists() or not (path / runs.PREVIOUS).exists():
        return None
    content = bytearray(file.read_bytes())
    at = draw.randrange(len(content))
    if draw.random() < 0.5:
        file.write_bytes(content[:at])
        return "cut short"
    content[at] ^= 1 << draw.randrange(8)
    file.write_bytes(content)
    return "a bit turned"


def torture(at: Path, kills: int, seed: int) -> bool:
    draw = random.Random(seed)
    source = at / "text.txt"
    source.write_bytes("".join(f"{n * n % 97} is the square of {n}.\n" for n in range(60)).encode())
    recipe = Recipe(hidden=16, bptt=8, streams=4, steps=max(200, STEPS_PER_KILL * kills), lr=0.01, held_out=0.1)
    began = time.monotonic()
    torch.set_num_threads(1)
    trained(at / "undisturbed", source, recipe)
    done: Counter[str] = Counter()
    disturbed, steps = at / "disturbed", []
    for number in range(kills):
        where, code = killed(disturbed, source, recipe, draw)
        done[f"killed {where}" if code is None else "through before it was killed"] += 1
        if number % 10 == 9 and (how := damaged(disturbed, draw)):
            done[f"newest checkpoint {how}"] += 1
        left = sorted(file.name for file in disturbed.glob(".*.new")) if disturbed.exists() else []
        done["files of a save left half done"] += bool(left)
        if (disturbed / runs.CHECKPOINT).exists():
            steps.append(number)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", DamagedFileWarning)
        trained(disturbed, source, recipe)
    log = runs.read_log(disturbed)
    resumed = sum(line["event"] == "resume" for line in log)
    logged = sum(line.get("steps", 0) for line in log)
    same = {runs.WEIGHTS: weights_in(at / "undisturbed") == weights_in(disturbed)}
    same["steps in the log"] = logged == recipe.steps
    same["nothing left behind"] = sorted(file.name for file in disturbed.iterdir() if file.name != disk.LOCK) == sorted(
        [runs.CHECKPOINT, runs.PREVIOUS, runs.WEIGHTS, runs.SETTINGS, runs.LOG, owned.RECORD]
    )
    facts = {
        "kills": kills, "seed": seed, "steps": recipe.steps, **done, "resumed (as logged)": resumed,
        "warnings at the end": len(said), "same": same, "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip
    print(json.dumps(facts, indent=2))
    return all(same.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="torture-") as at:
        if not torture(Path(at), options.kills, options.seed):
            sys.exit("The disturbed training is not the undisturbed one.")
    print(f"{options.kills} kills, and every byte of the weights is that of the undisturbed training.")


if __name__ == "__main__":
    main()
