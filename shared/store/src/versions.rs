//! Changes to a row that somebody has seen before.

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replaced<T> {
    /// It was made; this is how the row stands now.
    Done(T),
    /// Another version is there than any of those that the change was meant for.
    Differs,
    /// There is no such row.
    Missing,
}

impl<T> Replaced<T> {
    /// From the row as it was changed, if it was, and whether there is one.
    pub(crate) fn of(changed: Option<T>, exists: bool) -> Self {
        match changed {
            Some(row) => Self::Done(row),
            None if exists => Self::Differs,
            None => Self::Missing,
        }
    }
}
