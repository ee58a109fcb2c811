//! Running programs, with their output in the panic message when they fail.

use std::process::{Command, Stdio};

/// What a finished program said.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit code; 128 + signal when it was killed.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs a program to its end, with no standard input.
pub fn run(program: &str, args: &[&str]) -> Output {
    output(Command::new(program).args(args))
}

/// Runs a prepared command to its end, with no standard input.
pub fn output(command: &mut Command) -> Output {
    use std::os::unix::process::ExitStatusExt;
    let out = command.stdin(Stdio::null()).output().unwrap_or_else(|e| {
        panic!("cannot run {:?}: {e} (is it installed? scripts/install-deps test)", command.get_program())
    });
    Output {
        code: out.status.code().unwrap_or_else(|| 128 + out.status.signal().unwrap_or(0)),
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

/// Runs a program that must succeed; returns its standard output.
pub fn ok(program: &str, args: &[&str]) -> String {
    let out = run(program, args);
    assert!(
        out.code == 0,
        "{program} {} failed ({}):\n{}{}",
        args.join(" "),
        out.code,
        out.stdout,
        out.stderr
    );
    out.stdout
}

/// Runs a command line given as one string, split at blanks; it must succeed.
pub fn sh(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    ok(words[0], &words[1..])
}
