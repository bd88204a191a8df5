//! What a file is, by its first bytes. Its name and its declared type are not asked.

/// So many of them tell.
pub(super) const BYTES: usize = 12;

/// Whether a file begins like a video of a kind that is taken: MP4, QuickTime or 3GP (ISO/IEC 14496-12: a box, its length before its
/// type), Matroska or WebM (RFC 8794: the EBML header's id). Whether it is one is for the worker to say.
pub(super) fn is_video(start: &[u8]) -> bool {
    const EBML: &[u8] = &[0x1a, 0x45, 0xdf, 0xa3];
    // `ftyp` stands first in every file of these years; the others may in QuickTime files of before.
    const BOXES: [&[u8]; 6] = [b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"];
    start.starts_with(EBML) || start.get(4..8).is_some_and(|name| BOXES.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::is_video;

    #[test]
    fn a_video_is_known_by_its_first_bytes() {
        for good in [
            b"\0\0\0\x20ftypisom" as &[u8],
            b"\0\0\0\x14ftypqt  ",
            b"\0\0\0\x08wide\0\0\0\0",
            b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81",
        ] {
            assert!(is_video(good), "{good:?}");
        }
        for bad in [
            b"" as &[u8],
            b"ftyp",
            b"#EXTM3U\n#EXT-",
            b"ffconcat ver",
            b"<svg xmlns='",
            b"%PDF-1.7\n%..",
            b"GIF89a......",
            b"RIFF....AVI ",
            b"\0\0\0\x20FTYPisom",
        ] {
            assert!(!is_video(bad), "{bad:?}");
        }
    }
}
