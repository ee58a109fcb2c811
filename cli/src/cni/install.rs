//! `trunkline cni install`: makes this program a plugin that runtimes find.

use std::path::Path;

use trunkline_control::{Error, Result};

/// Makes `dir/trunkline` a symbolic link to this program, or a copy of it, in place of an older one.
pub(crate) fn install(dir: &Path, copy: bool) -> Result<()> {
    let failed = |what: &str, e: std::io::Error| {
        Error::failed(format!("cannot {what}: {e}")).hint("run it as root, or choose another --dir")
    };
    let program = std::env::current_exe().map_err(|e| failed("find this program", e))?;
    std::fs::create_dir_all(dir).map_err(|e| failed(&format!("make {}", dir.display()), e))?;
    let plugin = dir.join("trunkline");
    if program.canonicalize().ok() == plugin.canonicalize().ok() && plugin.exists() {
        return Ok(());
    }
    // A runtime may call it at any time: there is always one, and a whole one.
    let new = dir.join(format!(".trunkline-{}", std::process::id()));
    let made = match copy {
        true => std::fs::copy(&program, &new).map(drop),
        false => std::os::unix::fs::symlink(&program, &new),
    };
    made.and_then(|()| std::fs::rename(&new, &plugin)).map_err(|e| {
        let _ = std::fs::remove_file(&new);
        failed(&format!("write {}", plugin.display()), e)
    })
}
