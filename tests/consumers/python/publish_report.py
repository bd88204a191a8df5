"""Asks for a sales report by a message of our own, without the HTTP API, and prints the job's id.

    AMQP_URL=amqp://partner:...@127.0.0.1:18672/postroom python publish_report.py 2025-11-01 2025-11-30 ann@shop.example

The payload is described by docs/contract/report.render.schema.json.
"""

import json
import os
import sys
import time
import uuid

import pika


def main():
    first, last, address = sys.argv[1:4]
    payload = {
        "report": "sales",
        "period": {"from": first, "to": last},
        "group_by": "day",
        "recipient": {"name": "Ann Partner", "address": address},
    }
    job_id = str(uuid.uuid4())
    connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
    channel = connection.channel()
    # With confirms, basic_publish raises when the broker does not take the message; with mandatory, when no queue does.
    channel.confirm_delivery()
    channel.basic_publish(
        exchange="postroom.jobs.report.render",
        routing_key="normal",
        body=json.dumps(payload),
        properties=pika.BasicProperties(
            message_id=job_id,
            type="report.render",
            content_type="application/json",
            delivery_mode=pika.DeliveryMode.Persistent,
            timestamp=int(time.time()),
            app_id="partner",
            headers={"owner": "partner"},
        ),
        mandatory=True,
    )
    connection.close()
    print(job_id)


if __name__ == "__main__":
    main()
