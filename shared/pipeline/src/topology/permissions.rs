//! The broker's users and what each may do, derived from the same table: `compose/rabbitmq/definitions.json`.

use serde_json::{Value, json};

use crate::jobs::{Job, RenderReport};

use super::{CONTROL, DEAD, DELAY, EVENTS, RETURN, SERVICES, ServiceRow, UNROUTABLE, jobs_exchange, worker, worker_of};

/// The virtual host of the product.
const VHOST: &str = "postroom";
/// What somebody else may ask for.
const PARTNER_KINDS: &[&str] = &[RenderReport::KIND];

/// The broker's definitions: the virtual host, a user for each service with the least that its row needs, the operator, and
/// `partner`, an example of a consumer and publisher that is not ours. Passwords are not part of it.
#[must_use]
pub fn definitions() -> Value {
    let mut users = vec![json!({"name": "operator", "tags": ["administrator"]})];
    let mut permissions = vec![permission("operator", ".*", ".*", ".*")];
    for row in SERVICES {
        // To look at the virtual host by the management API, see `verify.rs`. It lets nobody do what the permissions refuse.
        users.push(json!({"name": row.name, "tags": ["management"]}));
        permissions.push(service_permission(row));
    }
    users.push(json!({"name": "partner", "tags": []}));
    let publish = format!(r"^(partner\..*|{})$", exchanges_of(PARTNER_KINDS).join("|"));
    let listen = format!(r"^(partner\..*|{})$", escaped(EVENTS));
    permissions.push(permission("partner", r"^partner\..*$", &publish, &listen));
    json!({
        "vhosts": [{"name": VHOST, "default_queue_type": "quorum"}],
        "users": users,
        "permissions": permissions,
    })
}

/// Declaring needs `configure`; binding needs to write the queue and read the exchange; a queue with a dead-letter exchange
/// needs to be read, and that exchange written; publishing needs to write the exchange.
fn service_permission(row: &ServiceRow) -> Value {
    let workers: std::collections::BTreeSet<&str> = row
        .works
        .iter()
        .copied()
        .chain(row.publishes.iter().filter_map(|kind| worker_of(kind)).map(|worker| worker.name))
        .collect();
    let queues = workers.iter().map(|worker| format!(r"{worker}\..*"));
    // The last is where each process hears what it is told.
    let own = [r"tracker\..*".to_owned(), escaped(UNROUTABLE), format!(r"control\.{}\..*", row.name)];
    let queues: Vec<String> = queues.chain(own).collect();
    let kinds: Vec<&str> =
        workers.iter().filter_map(|name| worker(name)).flat_map(|worker| worker.kinds).copied().collect();
    let mut exchanges = [EVENTS, DELAY, RETURN, DEAD, CONTROL].map(escaped).to_vec();
    exchanges.extend(exchanges_of(&kinds));
    let all = format!("^({}|{})$", exchanges.join("|"), queues.join("|"));
    // Who does a kind reads its exchange, to bind the queues; only who publishes it writes there.
    let mut writable = [EVENTS, DELAY, RETURN, DEAD].map(escaped).to_vec();
    writable.extend(exchanges_of(row.publishes));
    if row.controls {
        writable.push(escaped(CONTROL));
    }
    let write = format!("^({}|{})$", writable.join("|"), queues.join("|"));
    permission(row.name, &all, &write, &all)
}

fn exchanges_of(kinds: &[&str]) -> Vec<String> {
    kinds.iter().map(|kind| escaped(&jobs_exchange(kind))).collect()
}

fn permission(user: &str, configure: &str, write: &str, read: &str) -> Value {
    json!({"user": user, "vhost": VHOST, "configure": configure, "write": write, "read": read})
}

fn escaped(name: &str) -> String {
    name.replace('.', r"\.")
}
