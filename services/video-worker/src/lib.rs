//! `video-worker`: does `video.transcode` by ffmpeg. A library too, so that its tests can use the parts.

pub mod scratch;
pub mod settings;
pub mod transcode_video;
pub mod transcoder;
