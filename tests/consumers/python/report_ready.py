"""Prints each report as it becomes ready: a consumer of Postroom's events with nothing but an AMQP client.

    AMQP_URL=amqp://partner:...@127.0.0.1:18672/postroom python report_ready.py
"""

import json
import os

import pika

EXCHANGE = "postroom.events"
QUEUE = "partner.report-ready"


def on_event(channel, method, properties, body):
    event = json.loads(body)
    report = event["report"]
    period = report["period"]
    print(
        f"{report['id']} {report['title']!r} {period['from']}..{period['to']}: "
        f"{report['pages']} pages, {report['bytes']} bytes, for {event['job'].get('owner', 'nobody')}",
        flush=True,
    )
    # After the work, never before it: a crash in between gives the event to somebody again, with the same message_id.
    channel.basic_ack(method.delivery_tag)


def main():
    connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
    channel = connection.channel()
    # A queue of our own: whoever wants to listen binds one, and takes nothing away from anybody. It waits for us for a week.
    arguments = {"x-queue-type": "quorum", "x-expires": 7 * 24 * 3600 * 1000}
    channel.queue_declare(QUEUE, durable=True, arguments=arguments)
    channel.queue_bind(QUEUE, EXCHANGE, routing_key="report.ready")
    channel.basic_qos(prefetch_count=16)
    channel.basic_consume(QUEUE, on_event)
    print("listening", flush=True)
    try:
        channel.start_consuming()
    except KeyboardInterrupt:
        channel.stop_consuming()
    connection.close()


if __name__ == "__main__":
    main()
