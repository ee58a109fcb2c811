//! Completions and manual pages.

use std::path::Path;

use clap::CommandFactory as _;
use trunkline_control::Error;

use super::Outcome;
use crate::args::Cli;
use crate::output::Output;

pub(super) fn completions(shell: clap_complete::Shell, out: &Output) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "trunkline", &mut script);
    out.print(&String::from_utf8_lossy(&script))
}

pub(super) fn man(dir: &Path) -> Outcome {
    let written = std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(Cli::command(), dir));
    written.map_err(|e| Error::failed(format!("cannot write manual pages to {}: {e}", dir.display())).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let dir = std::env::temp_dir().join(format!("trunkline-man-{}", std::process::id()));
        man(&dir).unwrap();
        for page in
            ["trunkline.1", "trunkline-bridge-add.1", "trunkline-container-attach.1", "trunkline-stop.1"]
        {
            let text = std::fs::read_to_string(dir.join(page)).unwrap();
            assert!(text.contains(".SH SYNOPSIS"), "{page}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
