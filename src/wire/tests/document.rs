//! docs/wire-format.md as the tests read it.

use std::collections::BTreeMap;

pub const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/wire-format.md");

/// Its text.
pub fn text() -> String {
    std::fs::read_to_string(PATH).unwrap()
}

/// A table: its heads, and its rows.
struct Table {
    heads: Vec<String>,
    rows: Vec<Vec<String>>,
}

fn cells(line: &str) -> Vec<String> {
    let line = line.trim().trim_start_matches('|').trim_end_matches('|');
    line.split('|').map(|cell| cell.trim().to_owned()).collect()
}

/// The table below this heading whose first head is `first`.
fn table(heading: &str, first: &str) -> Table {
    let text = text();
    let section = text.split_once(&format!("\n{heading}\n")).expect("the heading is there").1;
    // As far as the next heading.
    let section = section.split("\n#").next().unwrap_or(section);
    let mut lines = section.lines().skip_while(|line| !line.starts_with(&format!("| {first} |")));
    let heads = cells(lines.next().expect("the table is there"));
    let rows: Vec<_> = lines.skip(1).take_while(|line| line.starts_with('|')).map(cells).collect();
    assert!(rows.len() > 3 && rows.iter().all(|row| row.len() == heads.len()), "{heading}");
    Table { heads, rows }
}

/// The numbers of the types that have a name.
pub fn types() -> BTreeMap<String, u8> {
    let rows = table("## Frames", "type").rows;
    rows.iter().filter_map(|row| Some((row[1].clone(), row[0].parse().ok()?))).collect()
}

/// The numbers of a list such as "DATA, HOLE, 13 to 127, 0".
fn numbers(list: &str, types: &BTreeMap<String, u8>) -> Vec<u8> {
    let number =
        |word: &str| word.parse::<u8>().unwrap_or_else(|_| panic!("{word} is not a number"));
    list.split(", ")
        .flat_map(|word| match (types.get(word), word.split_once(" to ")) {
            (Some(known), _) => *known..=*known,
            (None, Some((first, last))) => number(first)..=number(last),
            (None, None) => number(word)..=number(word),
        })
        .collect()
}

/// The effect of what is received, by state.
pub struct Received {
    pub states: Vec<String>,
    /// That of each type.
    pub effects: BTreeMap<u8, Vec<String>>,
    /// That of the end of the connection.
    pub end: Vec<String>,
}

/// The table of what an end receives. Each type is in exactly one row.
pub fn received(heading: &str) -> Received {
    let (Table { heads, rows }, types) = (table(heading, "received"), types());
    let (mut effects, mut end) = (BTreeMap::new(), Vec::new());
    for row in rows {
        if row[0] == "end of the connection" {
            end = row[1..].to_vec();
            continue;
        }
        for number in numbers(&row[0], &types) {
            let before = effects.insert(number, row[1..].to_vec());
            assert_eq!(before, None, "{heading}: type {number} is there twice");
        }
    }
    assert_eq!(effects.len(), 256, "{heading}: a type is missing");
    assert!(!end.is_empty(), "{heading}: the end of the connection is missing");
    Received { states: heads[1..].to_vec(), effects, end }
}

/// The types below 128 that an end may send, by state.
pub fn may_send(heading: &str) -> BTreeMap<String, Vec<u8>> {
    let types = types();
    let mut states = BTreeMap::new();
    for row in table(heading, "state").rows {
        let list = row[2].split(';').next().unwrap_or_default();
        let mut kinds = if list == "nothing" { vec![] } else { numbers(list, &types) };
        kinds.retain(|kind| *kind < 128);
        kinds.sort_unstable();
        states.insert(row[0].clone(), kinds);
    }
    states
}
