#!/usr/bin/env python3
"""Proves with strace that each append is synced between its write and its answer.

Usage: syncs.py MIRROR. Starts a bus of its own under strace, appends 20 events one after another, and checks the order of
system calls: every write to a segment is followed by fdatasync on the same descriptor before the next write to it, and there
are at least as many syncs as acknowledged appends.
"""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

APPENDS = 20


def main(mirror):
    if shutil.which("strace") is None:
        print("strace is not installed")
        return 1
    temp = tempfile.mkdtemp(prefix="m")
    home, trace = os.path.join(temp, "h"), os.path.join(temp, "trace")
    env = dict(os.environ, MIRROR_HOME=home)
    calls = "trace=pwrite64,fdatasync,fsync,openat,close"
    bus = subprocess.Popen(["strace", "-f", "-y", "-e", calls, "-o", trace, mirror, "serve", "bus"], env=env)
    try:
        append = [mirror, "append", "local.proof", '{"n":1}']
        deadline = time.monotonic() + 30
        while subprocess.run(append, env=env, capture_output=True).returncode != 0:
            if time.monotonic() > deadline:
                print("the bus did not start")
                return 1
            time.sleep(0.05)
        for _ in range(APPENDS - 1):
            subprocess.run(append, env=env, check=True, capture_output=True)
    finally:
        # strace itself does not pass a signal on; the traced process ends, and strace with it.
        with open(os.path.join(home, "run", "bus.lease")) as lease:
            os.kill(json.load(lease)["pid"], signal.SIGTERM)
        bus.wait(timeout=30)
    line = re.compile(r"(pwrite64|fdatasync)\((\d+)<([^>]*)>")
    done = re.compile(r"<\.\.\. (pwrite64|fdatasync) resumed>")
    dirty, writes, syncs, wrong = False, 0, 0, 0
    with open(trace) as lines:
        for text in lines:
            call = line.search(text)
            if call and call[3].endswith("00001.seg"):
                if call[1] == "pwrite64":
                    wrong += dirty
                    dirty, writes = True, writes + 1
                else:
                    dirty, syncs = False, syncs + 1
            elif done.search(text):
                continue
    print(f"{APPENDS} acknowledged appends: {writes} writes to the segment, {syncs} fdatasyncs, "
          f"{wrong} writes before the last one was synced")
    shutil.rmtree(temp, ignore_errors=True)
    return 0 if syncs >= APPENDS and wrong == 0 and not dirty else 1


sys.exit(main(os.path.abspath(sys.argv[1])))
