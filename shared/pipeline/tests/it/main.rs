//! The pipeline against a real RabbitMQ: `compose/up rabbitmq` starts it.

mod death;
mod faults;
mod harness;
mod permissions;
mod publishing;
mod retries;
mod shutdown;
