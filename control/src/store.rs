//! The state file: what was desired when the daemon ended is desired when it starts again.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::model::Desired;
use crate::{Error, ErrorKind, Result, files};

const FILE: &str = "state.toml";
/// How the names of files begin that are being written.
const UNFINISHED: &str = ".state-";
const VERSION: i64 = 1;
const HEADER: &str = "# Written by the trunkline daemon after every change. Use 'trunkline export' and 'trunkline apply'\n\
                      # to read and change it; edit it only while no daemon runs.\n";

/// Where the state is kept.
pub struct Store {
    dir: PathBuf,
}

#[derive(Serialize)]
struct StateFile<'a> {
    version: i64,
    #[serde(flatten)]
    desired: &'a Desired,
}

impl Store {
    /// Makes the directory if need be and reads the state; a missing file is an empty state.
    ///
    /// # Errors
    /// When the directory or file cannot be used, or the file is not a state: it is left as it is then.
    pub fn open(dir: &Path) -> Result<(Store, Desired)> {
        fs::create_dir_all(dir).map_err(|e| failed(dir, "make the state directory", &e))?;
        let store = Store { dir: dir.to_owned() };
        store.sweep();
        let path = store.path();
        let text = match fs::read(&path) {
            Ok(bytes) => String::from_utf8(bytes).map_err(|e| {
                let line =
                    1 + e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count();
                corrupt(&path, Error::invalid(format!("{} line {line}: this is not text", path.display())))
            })?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((store, Desired::default())),
            Err(e) => return Err(failed(&path, "read the state", &e)),
        };
        let desired =
            files::parse_state(&path.display().to_string(), &text, VERSION).map_err(|e| corrupt(&path, e))?;
        Ok((store, desired))
    }

    /// Removes what daemons left that were killed while they wrote.
    fn sweep(&self) {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for entry in entries.filter(|e| e.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes())) {
            // It is only in the way.
            let _ = fs::remove_file(entry.path());
        }
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// Replaces the file as a whole: after a crash it is the old one or the new one.
    ///
    /// # Errors
    /// When it cannot be written; the old one is still there then.
    pub fn save(&self, desired: &Desired) -> Result<()> {
        self.write(desired).map_err(|e| failed(&self.path(), "write the state", &e))
    }

    fn write(&self, desired: &Desired) -> io::Result<()> {
        let body = toml::to_string(&StateFile { version: VERSION, desired }).map_err(io::Error::other)?;
        // Made with mode 0600.
        let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.dir)?;
        file.write_all(HEADER.as_bytes())?;
        file.write_all(body.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(self.path())?;
        // The rename itself is on disk only when the directory is.
        File::open(&self.dir)?.sync_all()
    }
}

fn failed(path: &Path, what: &str, error: &io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::Permission,
        _ => ErrorKind::Failed,
    };
    Error::new(kind, format!("cannot {what} {}: {error}", path.display()))
        .hint("choose another place with --state-dir, or run as root")
}

fn corrupt(path: &Path, error: Error) -> Error {
    let hint =
        format!("the file is left as it is: repair it, or move {} away to start empty", path.display());
    let hint = if error.hint.is_empty() { hint } else { format!("{}; {hint}", error.hint) };
    error.hint(hint)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::model::Owner;

    fn sample() -> Desired {
        let text = "[bridge.br0]\n[[bridge.br0.fdb]]\nmac='02:00:00:00:00:01'\nport='web.1'\n\
                    [port.'web.1']\nbridge='br0'\ntype='tap'\nifname='x'\nlabels={a='\"\\n'}";
        let mut d = files::parse("f", text).unwrap();
        d.ports.get_mut("web.1").unwrap().owner = Owner::Cni;
        d
    }

    #[test]
    fn what_was_saved_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let (store, empty) = Store::open(&dir.path().join("a/b")).unwrap();
        assert_eq!(empty, Desired::default());
        fs::write(dir.path().join("a/b/.state-1234"), "half").unwrap();
        for desired in [sample(), Desired::default()] {
            store.save(&desired).unwrap();
            assert_eq!(Store::open(&dir.path().join("a/b")).unwrap().1, desired);
        }
        let mode = fs::metadata(store.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path().join("a/b")).unwrap().count(), 1, "no temporary files are left");
    }

    #[test]
    fn a_corrupt_file_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        for (bytes, says) in [
            (&b"version = 1\n[bridge.br0\n"[..], "state.toml line 2: "),
            (b"version = 1\n\xff", "state.toml line 2: this is not text"),
            (b"", "state.toml line 1: key 'version' is missing"),
            (b"version = 1\n[bridge.br0]\nageing = 0", "line 2: bridge br0: ageing 0 is out of range"),
        ] {
            fs::write(&path, bytes).unwrap();
            let error = Store::open(dir.path()).err().unwrap().to_string();
            assert!(error.contains(says) && error.contains("the file is left as it is"), "{error}");
            assert!(!error.contains('\n'), "{error}");
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
    }

    #[test]
    fn a_directory_that_cannot_be_written_fails_clearly() {
        let error = Store::open(Path::new("/proc/nothing-here")).err().unwrap().to_string();
        assert!(error.starts_with("cannot make the state directory /proc/nothing-here: "), "{error}");
    }
}
