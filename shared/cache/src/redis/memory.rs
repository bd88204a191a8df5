//! How much of a server's memory is in use, as its `INFO` tells.

/// What is in use, and what may be, both in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    used: u64,
    /// None is zero.
    limit: u64,
}

impl Memory {
    pub(super) fn parse(info: &str) -> Option<Self> {
        let number = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        Some(Self { used: number("used_memory:")?, limit: number("maxmemory:")? })
    }

    /// Shows it to whoever collects metrics.
    #[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 bytes of memory")]
    pub(super) fn show(self, server: &'static str) {
        metrics::gauge!("redis_memory_bytes", "server" => server).set(self.used as f64);
        metrics::gauge!("redis_memory_limit_bytes", "server" => server).set(self.limit as f64);
    }

    /// How full it is, from nine tenths on: while there still is time to do something about it.
    pub(super) fn nearly_full(self) -> Option<String> {
        let Self { used, limit } = self;
        let full = limit > 0 && used >= limit - limit / 10;
        full.then(|| format!("{} of {} MB are in use", used >> 20, limit >> 20))
    }
}

#[cfg(test)]
mod tests {
    use super::Memory;

    #[test]
    fn what_is_in_use_is_read_from_among_the_lines() {
        let info = "# Memory\r\nused_memory:181193933\r\nused_memory_rss:9\r\nmaxmemory:201326592\r\nmaxmemory_human:192.00M\r\n";
        assert_eq!(Memory::parse(info), Some(Memory { used: 181_193_933, limit: 201_326_592 }));
        assert_eq!(Memory::parse("# Memory\r\nused_memory:7\r\n"), None);
    }

    #[test]
    fn a_server_is_nearly_full_from_nine_tenths_on_and_never_without_a_limit() {
        let full = |used, limit| Memory { used, limit }.nearly_full();
        assert_eq!(full(181_193_932, 201_326_592), None);
        assert_eq!(full(181_193_933, 201_326_592).as_deref(), Some("172 of 192 MB are in use"));
        assert_eq!(full(u64::MAX, 0), None);
    }
}
