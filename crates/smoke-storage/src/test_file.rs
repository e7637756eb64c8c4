use tempfile::NamedTempFile;

/// A file on the disk that the tests were built on: what lies in memory cannot be read past the page cache everywhere.
pub(crate) fn file_of(bytes: &[u8]) -> NamedTempFile {
    let program = std::env::current_exe().unwrap();
    let file = NamedTempFile::new_in(program.parent().unwrap()).unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}
