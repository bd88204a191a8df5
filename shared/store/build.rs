//! Rebuilds the crate when a migration is added; `sqlx::migrate!` alone notices only changes of those it has seen.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
