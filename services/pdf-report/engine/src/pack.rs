//! Makes a tagged PDF small: puts its plain objects into compressed object streams.
//!
//! Each cell of a tagged table is an object of about 120 bytes, which the PDF writer leaves as text with 20 more in the
//! cross-reference table; a report of 4,200 rows is 5.9 MB so, and 1.1 MB packed. The rules are ISO 32000-1, 7.5.7 (object
//! streams) and 7.5.8 (cross-reference streams), both allowed by PDF/A-3 (ISO 19005-3). The input is regular, as it comes
//! from one known writer; what is not as expected here is passed on unpacked.

use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;

/// Objects in one stream; a viewer unpacks a whole stream to get at one of them.
const OBJECTS_PER_STREAM: usize = 200;

/// Bytes of one entry of the cross-reference stream: its type, then an offset or a stream's number, then an index.
const ENTRY_BYTES: usize = 1 + 4 + 2;

/// One object of the file, without the lines around it.
struct Object<'a> {
    number: u32,
    /// From `1 0 obj` to `endobj`.
    whole: &'a [u8],
    body: &'a [u8],
}

impl Object<'_> {
    fn is_stream(&self) -> bool {
        self.body.ends_with(b"endstream")
    }
}

/// Where an object is in the packed file.
#[derive(Clone, Copy)]
enum Place {
    Free,
    At { offset: u32 },
    Inside { stream: u32, index: u16 },
}

/// The same document in fewer bytes.
pub(crate) fn pack(pdf: Vec<u8>) -> Vec<u8> {
    match try_pack(&pdf) {
        Some(packed) if packed.len() < pdf.len() => packed,
        _ => pdf,
    }
}

fn try_pack(pdf: &[u8]) -> Option<Vec<u8>> {
    let file = File::parse(pdf)?;
    let (streams, plain): (Vec<_>, Vec<_>) = file.objects.iter().partition(|object| object.is_stream());
    let mut places = vec![Place::Free; file.size as usize];
    let mut out = Vec::with_capacity(pdf.len() / 2);
    out.extend_from_slice(file.head);

    for object in streams {
        *places.get_mut(object.number as usize)? = Place::At { offset: offset(&out)? };
        out.extend_from_slice(object.whole);
        out.extend_from_slice(b"\n");
    }
    for group in plain.chunks(OBJECTS_PER_STREAM) {
        let stream = u32::try_from(places.len()).ok()?;
        for (index, object) in group.iter().enumerate() {
            *places.get_mut(object.number as usize)? = Place::Inside { stream, index: u16::try_from(index).ok()? };
        }
        places.push(Place::At { offset: offset(&out)? });
        write_object_stream(&mut out, stream, group)?;
    }
    let start = offset(&out)?;
    places.push(Place::At { offset: start });
    write_cross_references(&mut out, &places, file.trailer)?;
    write!(out, "startxref\n{start}\n%%EOF\n").ok()?;
    Some(out)
}

/// A file with a plain cross-reference table in one piece.
struct File<'a> {
    /// The lines before the first object.
    head: &'a [u8],
    objects: Vec<Object<'a>>,
    /// The highest object number and one.
    size: u32,
    /// What stands in the trailer's dictionary after `/Size`.
    trailer: &'a [u8],
}

impl<'a> File<'a> {
    fn parse(pdf: &'a [u8]) -> Option<Self> {
        let table_at = number(after_last(pdf, b"startxref\n")?)?;
        let table = pdf.get(table_at..)?.strip_prefix(b"xref\n0 ")?;
        let size = number(table)?;
        let entries = table.get(1 + table.iter().position(|byte| *byte == b'\n')?..)?;
        let trailer = entries.get(size.checked_mul(20)?..)?.strip_prefix(b"trailer\n<</Size ")?;
        let trailer = trailer.get(size.to_string().len()..)?;
        let trailer = &trailer[..find(trailer, b">>\nstartxref")?];

        let mut offsets = Vec::new();
        for (index, entry) in entries.chunks_exact(20).take(size).enumerate() {
            if entry.get(11..18)? == b"00000 n" {
                offsets.push((number(entry)?, u32::try_from(index).ok()?));
            }
        }
        offsets.sort_unstable();
        let ends = offsets.iter().skip(1).map(|(offset, _)| *offset).chain([table_at]);
        let objects = offsets.iter().zip(ends).map(|((offset, number), end)| object(pdf.get(*offset..end)?, *number));
        Some(Self {
            head: pdf.get(..offsets.first()?.0)?,
            objects: objects.collect::<Option<_>>()?,
            size: u32::try_from(size).ok()?,
            trailer,
        })
    }
}

fn object(whole: &[u8], number: u32) -> Option<Object<'_>> {
    let whole = whole.trim_ascii_end();
    let body = whole.strip_prefix(format!("{number} 0 obj\n").as_bytes())?.strip_suffix(b"\nendobj")?;
    Some(Object { number, whole, body })
}

fn write_object_stream(out: &mut Vec<u8>, number: u32, objects: &[&Object<'_>]) -> Option<()> {
    let (mut index, mut bodies) = (String::new(), Vec::new());
    for object in objects {
        index.push_str(&format!("{} {} ", object.number, bodies.len()));
        bodies.extend_from_slice(object.body);
        bodies.push(b'\n');
    }
    let packed = deflate(&[index.as_bytes(), &bodies].concat())?;
    let (count, first, length) = (objects.len(), index.len(), packed.len());
    write!(
        out,
        "{number} 0 obj\n<</Type/ObjStm/N {count}/First {first}/Filter/FlateDecode/Length {length}>>\nstream\n"
    )
    .ok()?;
    out.extend_from_slice(&packed);
    out.extend_from_slice(b"\nendstream\nendobj\n");
    Some(())
}

/// The last object, which tells where all others are, itself included.
fn write_cross_references(out: &mut Vec<u8>, places: &[Place], trailer: &[u8]) -> Option<()> {
    let mut table = Vec::with_capacity(places.len() * (ENTRY_BYTES + 1));
    let mut above = [0; ENTRY_BYTES];
    for place in places {
        let (kind, second, third) = match *place {
            // The head of the list of free objects is its own next; 65,535 as in a plain table.
            Place::Free => (0, 0, u16::MAX),
            Place::At { offset } => (1, offset, 0),
            Place::Inside { stream, index } => (2, stream, index),
        };
        let [a, b, c, d] = second.to_be_bytes();
        let [e, f] = third.to_be_bytes();
        let entry = [kind, a, b, c, d, e, f];
        // PNG's "Up" filter: what differs from the entry above is next to nothing.
        table.push(2);
        table.extend(entry.iter().zip(above).map(|(byte, above)| byte.wrapping_sub(above)));
        above = entry;
    }
    let packed = deflate(&table)?;
    let (number, size, length) = (places.len() - 1, places.len(), packed.len());
    write!(
        out,
        "{number} 0 obj\n<</Type/XRef/W[1 4 2]/Filter/FlateDecode/DecodeParms<</Predictor 12/Columns {ENTRY_BYTES}>>\
         /Length {length}/Size {size}"
    )
    .ok()?;
    out.extend_from_slice(trailer);
    out.extend_from_slice(b">>\nstream\n");
    out.extend_from_slice(&packed);
    out.extend_from_slice(b"\nendstream\nendobj\n");
    Some(())
}

fn deflate(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok()
}

fn offset(out: &[u8]) -> Option<u32> {
    u32::try_from(out.len()).ok()
}

/// The decimal number that some bytes begin with.
fn number(bytes: &[u8]) -> Option<usize> {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&bytes[..digits]).ok()?.parse().ok()
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

fn after_last<'a>(bytes: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    let at = bytes.windows(wanted.len()).rposition(|window| window == wanted)?;
    bytes.get(at + wanted.len()..)
}

#[cfg(test)]
mod tests;
