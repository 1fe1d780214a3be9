"""Run a command and watch its memory from outside: watch.py LOG.jsonl COMMAND…

A line whenever VmHWM, the kernel's own record of the process's peak, has grown by 3 %, one a minute, and one at the end."""

import json
import subprocess
import sys
import time


def status(pid):
    "Bytes of VmHWM, VmRSS and their parts."
    lines = (l.split() for l in open(f'/proc/{pid}/status'))
    return {
        l[0][:-1]: int(l[1]) * 1024 for l in lines if l[0] in ('VmHWM:', 'VmRSS:', 'RssAnon:', 'RssFile:', 'VmSwap:')
    }


def children(pid):
    "Bytes of the resident children."
    try:
        pids = open(f'/proc/{pid}/task/{pid}/children').read().split()
    except OSError:
        return 0
    total = 0
    for p in pids:
        try:
            total += int(open(f'/proc/{p}/statm').read().split()[1]) * 4096
        except OSError:
            pass
    return total


def watch(log, command):
    process, start, said, last, peak, final = subprocess.Popen(command), time.time(), 0, 0, 0, {}
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
                if now['VmHWM'] > 1.03 * said or time.time() - last > 60:
                    said, last = max(said, now['VmHWM']), time.time()
                    line(**now)
            time.sleep(0.05)
        line(ended=process.wait(), VmHWM=final['VmHWM'], polled_peak_with_children=peak)


if __name__ == '__main__':
    watch(sys.argv[1], sys.argv[2:])
