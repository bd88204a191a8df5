//! All that a template can reach: the files of its request and nothing else.

use std::collections::HashMap;

use chrono::{DateTime, Datelike, Timelike, Utc};
use typst::diag::{FileError, FileResult};
use typst::foundations::{Binding, Bytes, Datetime, Duration, Scope};
use typst::syntax::{FileId, RootedPath, Source, VirtualPath, VirtualRoot};
use typst::text::{Font, FontBook};
use typst::utils::LazyHash;
use typst::{Library, LibraryExt, World};

use crate::fonts::Fonts;

/// Where a template finds its data.
const DATA: &str = "/data.json";

/// Typst's standard library without `plugin`: WebAssembly can run for ever, and no report needs it.
pub(crate) fn library() -> Library {
    let mut library = Library::default();
    let mut scope = Scope::new();
    for (name, binding) in library.global.scope().iter().filter(|(name, _)| *name != "plugin") {
        scope.bind(name.clone(), binding.clone());
    }
    library.global = library.global.clone().with_scope(scope);
    library.std = Binding::detached(library.global.clone());
    library
}

/// One request as Typst sees it. No file system, no network, no packages, no clock.
pub(crate) struct JobWorld<'a> {
    library: &'a LazyHash<Library>,
    fonts: &'a Fonts,
    main: FileId,
    sources: HashMap<FileId, Source>,
    files: HashMap<FileId, Bytes>,
    now: Datetime,
}

impl<'a> JobWorld<'a> {
    /// A world of some files by absolute path, and the data.
    ///
    /// # Errors
    /// Tells what is wrong with a path, the main file or the time.
    pub(crate) fn new(
        library: &'a LazyHash<Library>,
        fonts: &'a Fonts,
        main: &str,
        contents: impl IntoIterator<Item = (String, Vec<u8>)>,
        data: Vec<u8>,
        made_at: DateTime<Utc>,
    ) -> Result<Self, String> {
        let mut files = HashMap::from([(file_id(DATA)?, Bytes::new(data))]);
        let mut sources = HashMap::new();
        for (path, content) in contents {
            let id = file_id(&path)?;
            if path.ends_with(".typ") {
                let text = String::from_utf8(content.clone()).map_err(|_| format!("{path} is not UTF-8"))?;
                sources.insert(id, Source::new(id, text));
            }
            if files.insert(id, Bytes::new(content)).is_some() {
                return Err(format!("{path} is given twice"));
            }
        }
        let main_id = file_id(main)?;
        if !sources.contains_key(&main_id) {
            return Err(format!("the main file {main} is not among the .typ files"));
        }
        let now = datetime(made_at).ok_or("made_at is beyond what a PDF can say")?;
        Ok(Self { library, fonts, main: main_id, sources, files, now })
    }

    /// When the document is made.
    pub(crate) fn now(&self) -> Datetime {
        self.now
    }
}

fn file_id(path: &str) -> Result<FileId, String> {
    if !path.starts_with('/') {
        return Err(format!("path {path:?} does not begin with /"));
    }
    let path = VirtualPath::new(path).map_err(|error| format!("path {path:?}: {error:?}"))?;
    Ok(FileId::new(RootedPath::new(VirtualRoot::Project, path)))
}

fn datetime(at: DateTime<Utc>) -> Option<Datetime> {
    let part = |number: u32| u8::try_from(number).ok();
    let year = Some(at.year()).filter(|year| (0..=9999).contains(year))?;
    let [month, day, hour] = [part(at.month())?, part(at.day())?, part(at.hour())?];
    Datetime::from_ymd_hms(year, month, day, hour, part(at.minute())?, part(at.second())?)
}

impl World for JobWorld<'_> {
    fn library(&self) -> &LazyHash<Library> {
        self.library
    }

    fn book(&self) -> &LazyHash<FontBook> {
        &self.fonts.book
    }

    fn main(&self) -> FileId {
        self.main
    }

    fn source(&self, id: FileId) -> FileResult<Source> {
        self.sources.get(&id).cloned().ok_or_else(|| unreachable_file(id))
    }

    fn file(&self, id: FileId) -> FileResult<Bytes> {
        self.files.get(&id).cloned().ok_or_else(|| unreachable_file(id))
    }

    fn font(&self, index: usize) -> Option<Font> {
        self.fonts.get(index)
    }

    fn today(&self, _offset: Option<Duration>) -> Option<Datetime> {
        Datetime::from_ymd(self.now.year()?, self.now.month()?, self.now.day()?)
    }
}

fn unreachable_file(id: FileId) -> FileError {
    match id.get().root() {
        VirtualRoot::Package(package) => FileError::Other(Some(format!("there are no packages, not {package}").into())),
        VirtualRoot::Project => FileError::NotFound(id.get().vpath().get_with_slash().into()),
    }
}
