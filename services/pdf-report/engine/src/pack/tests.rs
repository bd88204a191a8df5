use lopdf::xref::XrefEntry;
use lopdf::{Document, Object};

use super::{OBJECTS_PER_STREAM, pack};

/// A file as the PDF writer leaves it: a catalog, one page with a stream, and many small objects.
fn plain(extra: usize) -> Vec<u8> {
    let mut bodies = vec![
        "<</Type/Catalog/Pages 2 0 R/Extra[".to_owned()
            + &(0..extra).map(|index| format!("{} 0 R ", index + 5)).collect::<String>()
            + "]>>",
        "<</Type/Pages/Count 1/Kids[3 0 R]>>".to_owned(),
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 10 10]/Contents 4 0 R>>".to_owned(),
        "<</Length 13>>\nstream\n0 0 m 9 9 l S\nendstream".to_owned(),
    ];
    bodies.extend((0..extra).map(|index| format!("<</Type/Extra/Number {index}/Text(endobj \\) {index})>>")));

    let mut pdf = b"%PDF-1.7\n%\x80\x80\x80\x80\n\n".to_vec();
    let mut table = format!("xref\n0 {}\n0000000000 65535 f\r\n", bodies.len() + 1);
    for (index, body) in bodies.iter().enumerate() {
        table.push_str(&format!("{:010} 00000 n\r\n", pdf.len()));
        pdf.extend_from_slice(format!("{} 0 obj\n{body}\nendobj\n\n", index + 1).as_bytes());
    }
    let start = pdf.len();
    let size = bodies.len() + 1;
    let trailer = format!("{table}trailer\n<</Size {size}/Root 1 0 R/ID[(ab)(cd)]>>\nstartxref\n{start}\n%%EOF");
    pdf.extend_from_slice(trailer.as_bytes());
    pdf
}

#[test]
fn every_object_survives_packing() {
    let extra = 2 * OBJECTS_PER_STREAM + 7;
    let original = Document::load_mem(&plain(extra)).unwrap();
    let packed = pack(plain(extra));
    let read = Document::load_mem(&packed).unwrap();
    for (id, object) in &original.objects {
        assert_eq!(read.get_object(*id).unwrap(), object, "object {id:?}");
    }
    assert_eq!(read.get_pages().len(), 1);
    assert_eq!(read.trailer.get(b"ID").unwrap(), original.trailer.get(b"ID").unwrap());
    let last = read.get_object(((extra + 4) as u32, 0)).and_then(Object::as_dict).unwrap();
    assert_eq!(last.get(b"Number").unwrap(), &Object::Integer(extra as i64 - 1));
}

#[test]
fn the_cross_references_name_the_place_in_each_stream() {
    let read = Document::load_mem(&pack(plain(OBJECTS_PER_STREAM + 7))).unwrap();
    let mut compressed = 0;
    for (number, entry) in &read.reference_table.entries {
        let XrefEntry::Compressed { container, index } = entry else {
            continue;
        };
        let stream = read.get_object((*container, 0)).and_then(Object::as_stream).unwrap();
        let content = stream.decompressed_content().unwrap();
        let numbers = String::from_utf8_lossy(&content);
        // Number and offset of one object after the other.
        assert_eq!(numbers.split(' ').nth(usize::from(*index) * 2).unwrap(), number.to_string());
        compressed += 1;
    }
    assert_eq!(compressed, OBJECTS_PER_STREAM + 7 + 3);
}

#[test]
fn many_small_objects_shrink_to_a_fraction() {
    let original = plain(5_000);
    let packed = pack(original.clone());
    assert!(packed.len() * 5 < original.len(), "{} of {}", packed.len(), original.len());
}

#[test]
fn packing_gives_the_same_bytes_each_time() {
    assert_eq!(pack(plain(300)), pack(plain(300)));
}

#[test]
fn what_is_not_understood_is_passed_on_as_it_is() {
    let no_pdf = b"no PDF at all".to_vec();
    assert_eq!(pack(no_pdf.clone()), no_pdf);
    // An offset that does not lead to its object.
    let mut broken = plain(300);
    let at = broken.windows(8).position(|window| window == b"\n7 0 obj").unwrap();
    broken[at + 1] = b'9';
    assert_eq!(pack(broken.clone()), broken);
    let already = pack(plain(300));
    assert_eq!(pack(already.clone()), already);
}
