"""Runs that are killed again and again, started again by the same command, and end as if nothing had happened.

    python benchmarks/kills.py --kills 100 --seed 0

Each trial is one reconstruction with ``resume="auto"`` in a folder of its own, as a queue starts a job again. The
process is killed at a random moment (SIGKILL or SIGTERM), or a second one is started beside it and must be refused, or
the disk is full for a while (a small tmpfs; needs root, otherwise left out), or it is killed while it replaces an
earlier result (``overwrite``), which then is continued unless the new one has had an epoch. What is in the folder in
the end is compared, bit for bit, with a run that nobody has disturbed (or with the earlier result, continued by a run
that nobody has disturbed). Exit status 1 if any trial ends differently.
"""

from __future__ import annotations

import argparse
import collections
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from pypty.output.lock import LOCK_FILE, read_owner

ROOT = Path(__file__).resolve().parents[1]
EPOCHS = 40
COMPARED = ("co.npy", "cp.npy", "cg.npy", "checkpoint_obj_epoch_30.npy", "model_iter0040.h5")
RUN = """
import sys
sys.path.insert(0, {tests!r})
import pypty
from problems import aperture_probe, small_params
result = pypty.run(small_params(output_folder={folder!r}, epoch_max={epochs}, print_flag=0, {options},
                                update_probe_pos="lambda x: x >= 3", save_checkpoints_every_epoch=10, save_iters=20,
                                save_result=["model"], min_step=0))
sys.exit(0 if len(result.epochs) == {epochs} else 3)
"""


AGAIN = 'resume="auto"'
EARLIER = "probe=aperture_probe(0.9)"
EARLIER_EPOCHS = 10


def start(folder: Path, options: str = AGAIN, epochs: int = EPOCHS) -> subprocess.Popen[str]:
    code = RUN.format(tests=str(ROOT / "tests"), folder=str(folder), epochs=epochs, options=options)
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, cwd=ROOT)


def finish(folder: Path, options: str = AGAIN, epochs: int = EPOCHS) -> None:
    run = start(folder, options, epochs)
    _, errors = run.communicate()
    if run.returncode:
        raise SystemExit(f"{folder}: the undisturbed run ended with {run.returncode}: {errors}")


def wait_until_it_writes(run: subprocess.Popen[str], folder: Path) -> None:
    """Its own lock: that of a killed run stays until then."""
    while run.poll() is None:
        owner = read_owner(folder / LOCK_FILE)
        if owner is not None and owner.process == run.pid:
            return
        time.sleep(0.002)


def disturb_replacement(folder: Path, earlier: Path, rng: random.Random) -> str:
    """A process that replaces an earlier result is killed, mostly before its first epoch is complete."""
    shutil.copytree(earlier, folder)
    run = start(folder, "overwrite=True")
    wait_until_it_writes(run, folder)
    time.sleep(rng.uniform(0, 0.2))
    over = run.poll() is not None
    run.kill()
    run.communicate()
    return "" if over else "SIGKILL while replacing"


def disturb(folder: Path, rng: random.Random, may_fill: bool) -> str:
    """One process with something that happens to it; returns what it was, or "" if the run was finished first."""
    run = start(folder)
    wait_until_it_writes(run, folder)
    kinds = ["SIGKILL", "SIGKILL", "SIGTERM", "second run", *(["full disk"] if may_fill else [])]
    kind = rng.choice(kinds)
    time.sleep(rng.uniform(0, 1.2))
    if run.poll() is not None:
        run.communicate()
        return ""
    if kind == "second run":
        second = start(folder)
        _, errors = second.communicate()
        if run.poll() is None and "in use by another run" not in errors:
            raise SystemExit(f"{folder}: the second run was not refused: {errors}")
        run.kill()
    elif kind == "full disk":
        fill(folder)
    else:
        run.send_signal(getattr(signal, kind))
    run.communicate()
    (folder / "filling").unlink(missing_ok=True)
    return kind


def fill(folder: Path) -> None:
    """Fill the file system until nothing can be written."""
    with open(folder / "filling", "wb", buffering=0) as stream:
        for size in (2**20, 2**10, 1):
            try:
                while True:
                    stream.write(b"\0" * size)
            except OSError:
                continue


def differences(folder: Path, whole: Path) -> list[str]:
    """Names of the files that are not those of the undisturbed run."""
    found = [name for name in COMPARED if not (folder / name).is_file()]
    for name in COMPARED:
        if name.endswith(".npy") and name not in found:
            one, other = np.load(folder / name), np.load(whole / name)
            found += [] if one.tobytes() == other.tobytes() else [name]
    rows = [
        [line.split(",")[2] for line in (path / "loss.csv").read_text().splitlines()]
        for path in (folder, whole)
    ]
    found += [] if rows[0] == rows[1] else ["loss.csv"]
    left = (".tmp", LOCK_FILE, "replaced_")
    found += [path.name for path in folder.iterdir() if path.name.endswith(left[:2]) or left[2] in path.name]
    return found


def mounted(folder: Path) -> bool:
    """Whether a tmpfs of 8 MB could be mounted there, for the full disk."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    return done.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, done, bad = random.Random(options.seed), collections.Counter[str](), 0
    work = Path(tempfile.mkdtemp(prefix="pypty_kills_"))
    finish(work / "whole")
    finish(work / "earlier", EARLIER, EARLIER_EPOCHS)
    shutil.copytree(work / "earlier", work / "continued")
    finish(work / "continued")
    small = work / "small"
    may_fill = mounted(small)
    try:
        trial = 0
        while sum(done.values()) < options.kills:
            folder = (small if may_fill else work) / f"trial{trial}"
            replaces = trial % 3 == 2
            if replaces and (kind := disturb_replacement(folder, work / "earlier", rng)):
                done[kind] += 1
            for _ in range(6):
                kind = disturb(folder, rng, may_fill)
                if not kind or sum(done.values()) >= options.kills:
                    break
                done[kind] += 1
            finish(folder)
            wrong = differences(folder, work / "whole")
            if wrong and replaces:
                wrong = differences(folder, work / "continued")
            bad += bool(wrong)
            sys.stdout.write(f"trial {trial}: {dict(done)}{f'; different: {wrong}' if wrong else ''}\n")
            sys.stdout.flush()
            shutil.rmtree(folder)
            trial += 1
    finally:
        if may_fill:
            subprocess.run(["umount", "-l", str(small)], check=False)
        shutil.rmtree(work, ignore_errors=True)
    sys.stdout.write(
        f"{sum(done.values())} disturbances in {trial} runs, {bad} of them ended differently: {dict(done)}\n"
    )
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
