//! `email-worker`: does `email.send` by SMTP. A library too, so that its tests can use the parts.

pub mod compose;
pub mod line;
pub mod mailer;
pub mod send_email;
pub mod settings;
pub mod templates;
