"""Sends tasks over one connection. Celery waits for no confirm unless it is told to, one by one."""

import json
import os
import time

from tasks import app, noop

count, payload = int(os.environ["BENCH_COUNT"]), os.environ["BENCH_PAYLOAD"]
# Closed at the end, or what is still on its way would be lost with the process.
with app.connection_for_write() as connection:
    producer = app.amqp.Producer(connection)
    connection.ensure_connection()
    begin = time.time()
    for _ in range(count):
        noop.apply_async((payload,), producer=producer)
    print(json.dumps({"begin": begin, "end": time.time()}))
