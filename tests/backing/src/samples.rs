//! Videos to upload.

/// Two seconds, 320 x 180, with a tone.
pub const TWO_SECONDS: &[u8] = include_bytes!("../samples/two-seconds.mp4");

/// Forty seconds, 1280 x 720, with a tone: at work for long enough to be struck in the middle.
pub const FORTY_SECONDS: &[u8] = include_bytes!("../samples/forty-seconds.mp4");
