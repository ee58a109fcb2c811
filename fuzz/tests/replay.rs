//! Runs every target on its committed corpus, and on a bounded number of random changes to it. Deterministic,
//! so a failure can be repeated. `TRUNKLINE_FUZZ_RUNS` sets the number of changes per target,
//! `TRUNKLINE_FUZZ_SEED` makes them other ones, `TRUNKLINE_FUZZ_ONLY` names the one target to run.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use trunkline_fuzz::{TARGETS, Target};

const RUNS: u64 = 4000;
const LONGEST: usize = 8192;

/// xorshift64* (Vigna 2016).
struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as usize
    }

    fn below(&mut self, n: usize) -> usize {
        self.next() % n.max(1)
    }

    /// One to eight changes of the kinds that upset parsers.
    fn mutate(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        const VALUES: [u8; 12] = [0, 1, 4, 5, 6, 17, 0x45, 0x60, 0x7f, 0x80, 0x81, 0xff];
        for _ in 0..=self.below(8) {
            let at = self.below(input.len());
            match self.below(8) {
                _ if input.is_empty() => input.push(self.next() as u8),
                0 | 1 => input[at] ^= 1 << self.below(8),
                2 => input[at] = self.next() as u8,
                3 => input[at] = VALUES[self.below(VALUES.len())],
                4 => input.truncate(at),
                5 => drop(input.drain(at..(at + 1 + self.below(8)).min(input.len()))),
                6 => drop(input.splice(at..at, vec![self.next() as u8; 1 + self.below(8)])),
                _ => {
                    let from = self.below(other.len());
                    let piece = &other[from..(from + self.below(200)).min(other.len())];
                    drop(input.splice(at..at, piece.iter().copied()));
                }
            }
        }
        input.truncate(LONGEST);
    }
}

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files
}

fn run(target: Target, input: &[u8], what: &str) {
    if catch_unwind(|| target.1(input)).is_err() {
        let path = std::env::temp_dir().join(format!("trunkline-fuzz-{}", target.0));
        fs::write(&path, input).unwrap();
        panic!("{} fails on {what}; the input is in {}", target.0, path.display());
    }
}

#[test]
fn every_case_of_the_corpora() {
    for &target in TARGETS {
        for (path, input) in corpus(target.0) {
            run(target, &input, &path.display().to_string());
        }
    }
}

#[test]
fn every_case_cut_short() {
    for &target in TARGETS {
        for (path, input) in corpus(target.0) {
            for len in (0..input.len().min(300)).chain((300..input.len()).step_by(97)) {
                run(target, &input[..len], &format!("{} cut to {len}", path.display()));
            }
        }
    }
}

#[test]
fn random_changes() {
    let number = |name, default| std::env::var(name).map_or(default, |n| n.parse().expect("a number"));
    let (runs, seed) = (number("TRUNKLINE_FUZZ_RUNS", RUNS), number("TRUNKLINE_FUZZ_SEED", 1));
    let only = std::env::var("TRUNKLINE_FUZZ_ONLY").ok();
    for &target in TARGETS.iter().filter(|target| only.as_ref().is_none_or(|only| only == target.0)) {
        let corpus = corpus(target.0);
        let mut random = Random(0x5eed_0000_0000_0000 | seed);
        for n in 0..runs {
            let mut input = corpus[random.below(corpus.len())].1.clone();
            let other = &corpus[random.below(corpus.len())].1;
            random.mutate(&mut input, other);
            run(target, &input, &format!("change {n}"));
        }
    }
}
