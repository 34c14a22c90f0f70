#!/usr/bin/env python3
"""Runs a fleet, has it prove things, lets tlog.py verify them, and tampers to see that each change is refused.

Usage: tlog_fleet.py MIRROR. Takes about half a minute.
"""

import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
VERIFIER = os.path.join(HERE, "tlog.py")


class Run:
    """A fleet in a temporary home, and how many checks held."""

    def __init__(self, mirror):
        self.mirror = os.path.abspath(mirror)
        self.temp = tempfile.mkdtemp(prefix="m", dir="/tmp")
        self.home = os.path.join(self.temp, "h")
        self.env = dict(os.environ, MIRROR_HOME=self.home)
        self.passed = self.failed = 0
        self.up = None

    def start(self):
        output = open(os.path.join(self.temp, "up.out"), "ab")
        self.up = subprocess.Popen([self.mirror, "up"], env=self.env, stdout=output, stderr=output)
        self.until("the fleet serves", lambda: self.call("status").returncode == 0)

    def stop(self):
        if self.up:
            self.up.send_signal(signal.SIGTERM)
            self.up.wait(timeout=60)
            self.up = None

    def until(self, what, holds):
        deadline = time.monotonic() + 60
        while not holds():
            if time.monotonic() > deadline:
                with open(os.path.join(self.temp, "up.out"), errors="replace") as output:
                    print(output.read()[-4000:])
                raise SystemExit(f"gave up waiting: {what}")
            time.sleep(0.1)

    def call(self, *args, **more):
        return subprocess.run([self.mirror, *args], env=self.env, capture_output=True, text=True, **more)

    def get(self, *args, **more):
        done = self.call(*args, **more)
        if done.returncode != 0:
            raise SystemExit(f"mirror {' '.join(args)}: {done.stdout}{done.stderr}")
        return done.stdout

    def append(self, count):
        events = [{"subject": "local.proof", "payload": "eyJ4IjoxfQ==", "type": "PAYLOAD_TYPE_JSON"}] * count
        for at in range(0, count, 1000):
            self.get("call", "bus", "AppendBatch", "-", input=json.dumps({"events": events[at:at + 1000]}))

    def checkpoint(self):
        return json.loads(self.get("checkpoint", "--now", "--json"))["size"]

    def that(self, holds, what, seen=""):
        self.passed, self.failed = self.passed + bool(holds), self.failed + (not holds)
        print(f"{'ok   ' if holds else 'FAIL '} {what}{'' if holds else ': ' + seen.strip()}")

    def verify(self, what, *args, why=None):
        """Runs tlog.py, which must find nothing, or must find `why`."""
        done = subprocess.run([sys.executable, VERIFIER, *args], capture_output=True, text=True)
        said = done.stdout + done.stderr
        if why is None:
            self.that(done.returncode == 0 and said.rstrip().endswith("OK"), what, said)
        else:
            self.that(done.returncode == 1 and "WRONG" in said and why in said, f"{what} is refused", said)

    def check(self, what, path, holds, *args):
        """Runs `mirror bus prove --check`, which needs no fleet."""
        done = self.call("bus", "prove", "--check", path, *args)
        want = done.returncode == 0 if holds else done.returncode == 65 and "CLI_PROOF_INVALID" in done.stderr
        self.that(want, what if holds else f"{what} is refused by mirror", done.stdout + done.stderr)

    def write(self, name, text):
        path = os.path.join(self.temp, name)
        with open(path, "w", newline="") as file:
            file.write(text)
        return path

    def copy(self):
        """Returns a fresh copy of the bus folder, to tamper with."""
        copy = os.path.join(self.temp, "copy")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(os.path.join(self.home, "bus"), copy)
        return copy


def flip(path, at):
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def change(text, old):
    """Changes a letter in the middle of a part of a text."""
    at = text.index(old) + len(old) // 2
    return text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1:]


def prove(run):
    """Makes a log with checkpoints and has it prove things; returns the files and the sizes."""
    sizes = []
    for count in (3, 250, 40, 600, 7):
        run.append(count)
        sizes.append(run.checkpoint())
    files, newest = [], sizes[-1]
    for seq in (1, 2, 255, 256, 257, newest // 2, newest - 1, newest):
        files.append(run.write(f"{seq}.tlog-proof", run.get("bus", "prove", str(seq))))
    for seq, size in ((1, sizes[0]), (sizes[1], sizes[1]), (17, sizes[2]), (sizes[2], sizes[3])):
        files.append(run.write(f"{seq}-{size}.tlog-proof", run.get("bus", "prove", str(seq), "--size", str(size))))
    files.append(run.write("7.json", run.get("bus", "prove", "7", "--json")))
    for first in sizes:
        files.append(run.write(f"{first}-newest.json", run.get("bus", "prove", "--from", str(first))))
        for second in (size for size in sizes if size > first):
            path = run.write(f"{first}-{second}.json", run.get("bus", "prove", "--from", str(first), "--to", str(second)))
            files.append(path)
    refused = run.call("bus", "prove", "1", "--size", str(sizes[3] - 1))
    run.that(refused.returncode == 66 and "checkpoints near it" in refused.stderr, "a size that was not signed is refused",
             refused.stderr)
    refused = run.call("bus", "prove", str(newest + 100_000))
    run.that(refused.returncode == 66, "an event that no checkpoint covers is refused", refused.stderr)
    return files, sizes


def tamper(run, files, keys, device):
    """Changes one thing after another; each must be named."""
    origin = json.load(open(os.path.join(run.home, "bus", "node.json")))["origin"]

    copy = run.copy()
    segment = sorted(glob.glob(f"{copy}/log/{origin}/*.seg"))[0]
    with open(segment, "rb") as file:
        at = file.read().index(b'"k":"local.proof"') + 8
    flip(segment, at)
    run.verify("a flipped byte of a header", copy, "--keys", keys, why="CRC")

    copy = run.copy()
    tile = f"{copy}/tiles/{origin}/tile/0/001"
    flip(tile, 700)
    run.verify("a flipped byte of a full tile", copy, "--keys", keys, why="tile/0/001")
    copy = run.copy()
    partial = sorted(glob.glob(f"{copy}/tiles/{origin}/tile/1/000.p/*"))[-1]
    flip(partial, 0)
    run.verify("a flipped byte of a partial tile", copy, "--keys", keys, why="tile/1/000.p")
    copy = run.copy()
    os.remove(f"{copy}/tiles/{origin}/tile/0/002")
    run.verify("a missing tile", copy, "--keys", keys, why="is missing")

    for what, edit, why in (
        ("a note with another root", lambda t: change(t, t.split("\n")[2][:20]), ""),
        ("a note with another size", lambda t: t.replace("\n" + t.split("\n")[1] + "\n", "\n2\n", 1), "signature"),
        ("a note with another signature", lambda t: change(t, t.split(" ")[-1][20:60]), "signature"),
        ("a note without a signature", lambda t: t.split("\u2014")[0], ""),
        ("a note of another log", lambda t: t.replace(".1\n", ".2\n", 1), "signature"),
    ):
        copy = run.copy()
        note = sorted(glob.glob(f"{copy}/checkpoints/{origin}/*.note"))[1]
        with open(note, newline="") as file:
            text = file.read()
        with open(note, "w", newline="") as file:
            file.write(edit(text))
        run.verify(what, copy, "--keys", keys, why=why)

    proof = next(path for path in files if path.endswith("/256.tlog-proof"))
    growth = [path for path in files if path.endswith("-newest.json")][1]
    with open(proof, newline="") as file:
        text = file.read()
    with open(growth, newline="") as file:
        grown = json.load(file)
    lines = text.split("\n")
    swapped = lines[:3] + [lines[4], lines[3]] + lines[5:]
    other = [path for path in files if path.endswith("/257.tlog-proof")][0]
    with open(other, newline="") as file:
        others = file.read().split("\n")
    mutants = {
        "a flipped hash of a path": change(text, lines[3]),
        "a dropped hash": "\n".join(lines[:3] + lines[4:]),
        "an added hash": "\n".join(lines[:4] + lines[3:]),
        "two swapped hashes": "\n".join(swapped),
        "another index": text.replace("index 255\n", "index 254\n"),
        "the header of another event": "\n".join(lines[:1] + others[1:2] + lines[2:]),
        "a flipped signature": change(text, lines[-2].split(" ")[-1]),
        "another root": change(text, lines[-5]),
        "a flipped hash of growth": json.dumps({**grown, "hashes": ["00" * 32, *grown["hashes"][1:]]}),
        "a dropped hash of growth": json.dumps({**grown, "hashes": grown["hashes"][1:]}),
        "growth backwards": json.dumps({**grown, "from": grown["to"], "to": grown["from"]}),
        "growth with the note of another size": json.dumps({**grown, "to": grown["from"]}),
    }
    for what, mutant in mutants.items():
        if mutant in (text, json.dumps(grown)):
            raise SystemExit(f"{what}: nothing was changed")
        path = run.write("mutant", mutant)
        run.verify(what, "--key", device, path, why="")
        run.check(what, path, False)
    run.verify("a proof of another device", "--key", "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
               proof, why="device key")
    run.check("a proof of another device", proof, False, "--key",
              "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")


def main(mirror):
    run = Run(mirror)
    try:
        run.start()
        files, sizes = prove(run)
        # Tiles that somebody deletes while the fleet runs are made again before the next proof.
        shutil.rmtree(os.path.join(run.home, "bus", "tiles"))
        again = run.get("bus", "prove", "256", "--size", str(sizes[-1]))
        with open(next(path for path in files if path.endswith("/256.tlog-proof")), newline="") as file:
            run.that(again == file.read(), "a proof is the same after the tiles were deleted", again)
        run.append(300)
        run.checkpoint()
        run.stop()

        bus, keys = os.path.join(run.home, "bus"), os.path.join(run.home, "keys", "keys.json")
        device = json.load(open(os.path.join(bus, "node.json")))["public_key"]
        run.verify("the bus folder and all documents", bus, "--keys", keys, *files)
        run.verify("all documents with nothing but the device key", "--key", device, *files)
        for path in files:
            run.check(f"mirror bus prove --check {os.path.basename(path)}", path, True)
        run.check("with a key that is named", files[0], True, "--key", device)
        tamper(run, files, keys, device)
    finally:
        run.stop()
        shutil.rmtree(run.temp, ignore_errors=True)
    print(f"{run.passed} passed, {run.failed} failed")
    return 0 if run.failed == 0 and run.passed > 50 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
