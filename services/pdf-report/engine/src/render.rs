//! From a request to the bytes of a PDF, or to the reasons why not.

use std::io;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use typst::diag::SourceDiagnostic;
use typst::foundations::Smart;
use typst::syntax::{DiagSpan, Lines};
use typst::utils::LazyHash;
use typst::{Library, World, WorldExt};
use typst_layout::PagedDocument;
use typst_pdf::{PdfOptions, PdfStandard, PdfStandards, Timestamp};

use crate::fonts::Fonts;
use crate::pack;
use crate::protocol::{Diagnostic, Failure, FileContent, Request, Standard};
use crate::world::{self, JobWorld};

/// More than anybody reads; a template can make one for each of a million cells.
const MAX_DIAGNOSTICS: usize = 20;

/// What can be made ready before a request is known.
pub(crate) struct Engine {
    library: LazyHash<Library>,
    fonts: Fonts,
}

impl Engine {
    /// Parses the fonts and builds the library.
    pub(crate) fn boot() -> Self {
        Self { library: LazyHash::new(world::library()), fonts: Fonts::embedded() }
    }

    /// Makes the document; `laid_out` hears of its pages before the file is written.
    ///
    /// # Errors
    /// The outer one is `laid_out`'s own.
    pub(crate) fn render(
        &self,
        mut request: Request,
        laid_out: impl FnOnce(u32) -> io::Result<()>,
    ) -> io::Result<Result<Vec<u8>, Failure>> {
        self.fonts.replace_missing(&mut request.data);
        let world = match self.world(&request) {
            Ok(world) => world,
            Err(reason) => return Ok(Err(template(vec![Diagnostic::general(reason)]))),
        };
        let document = match typst::compile::<PagedDocument>(&world).output {
            Ok(document) => document,
            Err(errors) => return Ok(Err(template(diagnose(&world, &errors)))),
        };
        let pages = u32::try_from(document.pages().len()).unwrap_or(u32::MAX);
        if pages > request.limits.pages {
            return Ok(Err(Failure::TooManyPages { pages }));
        }
        laid_out(pages)?;
        Ok(write_pdf(&world, document, &request))
    }

    fn world(&self, request: &Request) -> Result<JobWorld<'_>, String> {
        let files = request.files.iter().map(|(path, content)| {
            let bytes = match content {
                FileContent::Text(text) => text.clone().into_bytes(),
                FileContent::Base64(text) => {
                    BASE64_STANDARD.decode(text).map_err(|error| format!("{path} is not base64: {error}"))?
                }
            };
            Ok((path.clone(), bytes))
        });
        let files = files.collect::<Result<Vec<_>, String>>()?;
        let data = serde_json::to_vec(&request.data).map_err(|error| error.to_string())?;
        JobWorld::new(&self.library, &self.fonts, &request.main, files, data, request.made_at)
    }
}

fn write_pdf(world: &JobWorld<'_>, document: PagedDocument, request: &Request) -> Result<Vec<u8>, Failure> {
    let standards: Vec<_> = request.standards.iter().map(|standard| typst_standard(*standard)).collect();
    let standards =
        PdfStandards::new(&standards).map_err(|error| template(vec![Diagnostic::general(error.message().as_str())]))?;
    let options = PdfOptions {
        creator: Smart::Custom(Some("Postroom".to_owned())),
        timestamp: Some(Timestamp::new_utc(world.now())),
        standards,
        ..PdfOptions::default()
    };
    let written = typst_pdf::pdf(&document, &options).map_err(|errors| template(diagnose(world, &errors)))?;
    // Its pages are the better part of this process's memory, and packing wants some.
    drop(document);
    typst::comemo::evict(0);
    let pdf = pack::pack(written);
    if pdf.len() > request.limits.bytes as usize {
        return Err(Failure::TooManyBytes { bytes: pdf.len() as u64 });
    }
    Ok(pdf)
}

fn typst_standard(standard: Standard) -> PdfStandard {
    match standard {
        Standard::PdfA3b => PdfStandard::A_3b,
        Standard::PdfUa1 => PdfStandard::Ua_1,
    }
}

fn template(diagnostics: Vec<Diagnostic>) -> Failure {
    Failure::Template { diagnostics }
}

fn diagnose(world: &JobWorld<'_>, errors: &[SourceDiagnostic]) -> Vec<Diagnostic> {
    let diagnose_one = |error: &SourceDiagnostic| {
        let (file, line, column) = place(world, error.span);
        let hints = error.hints.iter().map(|hint| hint.v.to_string()).collect();
        Diagnostic { message: error.message.to_string(), file, line, column, hints }
    };
    errors.iter().take(MAX_DIAGNOSTICS).map(diagnose_one).collect()
}

/// File, line and column, both counted from 1, as far as they are known.
fn place(world: &JobWorld<'_>, span: DiagSpan) -> (Option<String>, Option<u32>, Option<u32>) {
    let Some(id) = span.id() else { return (None, None, None) };
    let file = id.get().vpath().get_with_slash().to_owned();
    let position = || {
        let text = world.file(id).ok()?;
        let start = world.range(span)?.start;
        let (line, column) = Lines::new(text.as_str().ok()?).byte_to_line_column(start)?;
        Some((u32::try_from(line + 1).ok()?, u32::try_from(column + 1).ok()?))
    };
    let (line, column) = position().unzip();
    (Some(file), line, column)
}
