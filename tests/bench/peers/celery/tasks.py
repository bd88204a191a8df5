"""A task that does nothing, on a quorum queue, acked after it ran. One byte more in the file says that one more is done."""

import os

from celery import Celery
from celery.signals import worker_ready
from kombu import Queue

app = Celery("bench", broker=os.environ["BENCH_URL"])
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    task_default_queue="bench.celery",
    task_queues=[Queue("bench.celery", queue_arguments={"x-queue-type": "quorum"})],
    worker_enable_remote_control=False,
    worker_redirect_stdouts=False,
    # Of 4, 16 and 64 the best with 50 threads.
    worker_prefetch_multiplier=4,
)
done = os.open(os.environ["BENCH_DONE"], os.O_WRONLY | os.O_APPEND)


@app.task
def noop(note):
    os.write(done, b".")


@worker_ready.connect
def say_ready(**_):
    print("ready", flush=True)
