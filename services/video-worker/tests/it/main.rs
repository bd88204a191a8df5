//! Real files through the real ffmpeg (`apt-get install ffmpeg`); and the program itself, against the real RabbitMQ and the real
//! PostgreSQL: start those by `compose/up rabbitmq postgres`.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

mod fixture;
mod hostile;
mod processes;
mod renditions;
mod resumed;
mod sample;
mod studio;
mod whole;
