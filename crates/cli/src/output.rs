//! Printing results.

use comfy_table::{ContentArrangement, Table, presets};
use fleet_proto::json::to_json;
use prost::Message;
use prost_types::Timestamp;

use crate::args::Format;

/// Prints `message` of the API type `name`: as JSON or YAML, or as the table `table` makes (given
/// whether it should be wide).
pub fn print(
    format: Format,
    name: &str,
    message: &impl Message,
    table: impl FnOnce(bool) -> String,
) -> anyhow::Result<()> {
    let name = format!("fleet.v1.{name}");
    match format {
        Format::Json => println!("{:#}", to_json(&name, message)),
        Format::Yaml => print!("{}", serde_yaml_ng::to_string(&to_json(&name, message))?),
        Format::Table => println!("{}", table(false)),
        Format::Wide => println!("{}", table(true)),
    }
    Ok(())
}

/// As [`print()`], of what is no message of the API.
pub fn print_json(
    format: Format,
    json: impl FnOnce() -> serde_json::Value,
    table: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    match format {
        Format::Json => println!("{:#}", json()),
        Format::Yaml => print!("{}", serde_yaml_ng::to_string(&json())?),
        Format::Table | Format::Wide => println!("{}", table()),
    }
    Ok(())
}

/// Columns for people.
pub fn columns(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    for row in rows {
        table.add_row(row);
    }
    let padding = |column: &mut comfy_table::Column| {
        column.set_padding((0, 2));
    };
    table.column_iter_mut().for_each(padding);
    table.trim_fmt()
}

/// How long ago, short.
pub fn age(at: Option<&Timestamp>) -> String {
    let Some(at) = at else { return "-".into() };
    let now = i64::try_from(fleet_runtime::clock::now().0 / 1_000).unwrap_or(i64::MAX);
    match (now - at.seconds).max(0) {
        s @ 0..120 => format!("{s}s"),
        s @ 120..7_200 => format!("{}m", s / 60),
        s @ 7_200..172_800 => format!("{}h", s / 3_600),
        s => format!("{}d", s / 86_400),
    }
}

/// `STATE_CRASH_LOOPING` as `crash-looping`.
pub fn short(name: &str) -> String {
    let rest = name.split_once("STATE_").or_else(|| name.split_once('_')).map_or(name, |(_, r)| r);
    rest.to_lowercase().replace('_', "-")
}

/// The last part of a resource name.
pub fn last(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_short() {
        assert_eq!(short("STATE_CRASH_LOOPING"), "crash-looping");
        assert_eq!(short("DESIRED_STATE_RUNNING"), "running");
        assert_eq!(short("ROLE_VOTER"), "voter");
    }
}
