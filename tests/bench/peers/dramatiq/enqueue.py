"""Sends messages over one connection. Dramatiq waits for no confirm unless it is told to, one by one."""

import json
import os
import time

from actors import broker, noop

count, payload = int(os.environ["BENCH_COUNT"]), os.environ["BENCH_PAYLOAD"]
broker.declare_queue("bench.dramatiq", ensure=True)
begin = time.time()
for _ in range(count):
    noop.send(payload)
print(json.dumps({"begin": begin, "end": time.time()}))
broker.close()
