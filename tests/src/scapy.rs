//! Packets made by scapy (tests/scapy/*.py).

use std::path::Path;

use serde_json::Value;

use crate::cmd;

/// Packets that belong together.
#[derive(Clone, Debug)]
pub struct Case {
    /// What they are; the text of the frames inside.
    pub name: String,
    /// The drop reason they must be counted under; `None` when they must be delivered.
    pub reason: Option<String>,
    /// Whole frames.
    pub frames: Vec<Vec<u8>>,
}

/// Runs a script; it prints its cases as JSON.
pub fn cases(script: &str, args: &[&str]) -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scapy").join(script);
    // Debian's Python: scapy is packaged for it.
    let text = cmd::ok("/usr/bin/python3", &[&[path.to_str().expect("utf-8")], args].concat());
    let list: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{script}: {e}\n{text}"));
    let hex = |v: &Value| {
        let text = v.as_str().expect("hexadecimal");
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex")).collect()
    };
    let case = |row: &Value| Case {
        name: row["name"].as_str().expect("name").to_owned(),
        reason: row["reason"].as_str().map(str::to_owned),
        frames: row["frames"].as_array().expect("frames").iter().map(hex).collect(),
    };
    list.as_array().expect("array").iter().map(case).collect()
}
