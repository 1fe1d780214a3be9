"""Run a command and watch its memory from outside.

Usage: python watch.py LOG.jsonl COMMAND…

Writes a line whenever VmHWM, the kernel's own record of the process's peak, has grown by 3 %, one per minute, and one
at the end."""

import json
import subprocess
import sys
import time
from pathlib import Path

NAMES = ('VmHWM', 'VmRSS', 'RssAnon', 'RssFile', 'VmSwap')


def status(pid):
    "Bytes of VmHWM, VmRSS and their parts."
    words = (line.split() for line in open(f'/proc/{pid}/status'))
    return {w[0][:-1]: int(w[1]) * 1024 for w in words if w[0][:-1] in NAMES}


def children(pid):
    "Bytes of the resident children."
    try:
        pids = Path(f'/proc/{pid}/task/{pid}/children').read_text().split()
    except OSError:
        return 0
    total = 0
    for p in pids:
        try:
            total += int(Path(f'/proc/{p}/statm').read_text().split()[1]) * 4096
        except OSError:  # it has ended
            pass
    return total


def watch(log, command):
    "Start the command and log its memory until it ends."
    process, start = subprocess.Popen(command), time.time()
    logged, last = 0, 0  # the largest VmHWM in the log, and when a line was last written
    peak, final = 0, {}
    with open(log, 'w') as f:

        def line(**facts):
            f.write(json.dumps(dict(t=round(time.time() - start, 1), **facts)) + '\n')
            f.flush()

        while process.poll() is None:
            try:
                now = status(process.pid)
            except OSError:
                break
            if now:
                final, peak = now, max(peak, now['VmRSS'] + children(process.pid))
                if now['VmHWM'] > 1.03 * logged or time.time() - last > 60:
                    logged, last = max(logged, now['VmHWM']), time.time()
                    line(**now)
            time.sleep(0.05)
        line(ended=process.wait(), VmHWM=final['VmHWM'], polled_peak_with_children=peak)


if __name__ == '__main__':
    watch(sys.argv[1], sys.argv[2:])
