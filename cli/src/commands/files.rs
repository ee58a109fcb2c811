//! `trunkline apply` and `trunkline export`.

use std::io::Read as _;
use std::path::Path;

use serde_json::json;
use trunkline_control::{Error, files};

use super::{Context, Outcome};
use crate::args::{ApplyArgs, Json};

pub(super) async fn apply(context: &Context<'_>, args: ApplyArgs) -> Outcome {
    let text = read(&args.file)?;
    let name =
        if args.file == Path::new("-") { "standard input".into() } else { args.file.display().to_string() };
    let file = files::parse(&name, &text)?;
    let changes = context.client.apply(&file, args.dry_run).await?;
    if args.json.json {
        return context.out.json(&json!({ "changes": changes }));
    }
    if changes.is_empty() {
        return context.out.print("nothing changes\n");
    }
    let lines: String = changes.iter().map(|c| format!("{c}\n")).collect();
    context.out.print(&lines)
}

fn read(path: &Path) -> Result<String, Error> {
    let failed = |what: &str| {
        Error::failed(format!("cannot read {}: {what}", path.display()))
            .hint("give a TOML file, or - for standard input")
    };
    let mut bytes = Vec::new();
    let result = if path == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut bytes).map(drop)
    } else {
        std::fs::read(path).map(|b| bytes = b)
    };
    result.map_err(|e| failed(&e.to_string()))?;
    String::from_utf8(bytes).map_err(|_| failed("it is not text"))
}

pub(super) async fn export(context: &Context<'_>, json: Json) -> Outcome {
    let desired = context.client.export().await?;
    if json.json {
        context.out.json(&files::export_json(&desired))
    } else {
        context.out.print(&files::export(&desired))
    }
}
