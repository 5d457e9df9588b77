"""Runs a command of the shell and prints what it took: wall time, CPU of it and all it started, and the largest resident memory of one
of these processes. Its output goes nowhere; one that fails is a failure here.

usage: measured.py COMMAND
"""

import json
import os
import subprocess
import sys
import time


def main():
    start = time.monotonic()
    child = subprocess.Popen(["bash", "-euo", "pipefail", "-c", sys.argv[1]], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = child.stderr.read()
    _, status, used = os.wait4(child.pid, 0)
    seconds = time.monotonic() - start
    if status != 0:
        sys.exit(f"{sys.argv[1]}\n{said.decode(errors='replace')}")
    print(json.dumps({"seconds": seconds, "cpu": used.ru_utime + used.ru_stime, "peak_mib": used.ru_maxrss / 1024}))


if __name__ == "__main__":
    main()
