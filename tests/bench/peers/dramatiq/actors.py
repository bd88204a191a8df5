"""An actor that does nothing, on a quorum queue, acked after it ran. One byte more in the file says that one more is done."""

import os

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker


class QuorumBroker(RabbitmqBroker):
    def _build_queue_arguments(self, queue_name):
        return super()._build_queue_arguments(queue_name) | {"x-queue-type": "quorum"}


class SayReady(dramatiq.Middleware):
    def after_worker_boot(self, broker, worker):
        # Dramatiq sends what is printed to its log.
        os.write(1, b"ready\n")


broker = QuorumBroker(url=os.environ["BENCH_URL"])
broker.add_middleware(SayReady())
dramatiq.set_broker(broker)
done = os.open(os.environ["BENCH_DONE"], os.O_WRONLY | os.O_APPEND)


@dramatiq.actor(queue_name="bench.dramatiq")
def noop(note):
    os.write(done, b".")
