//! The order of the header: by task, each group under a banner, the constants of one kind under one comment.

/// The groups in their order, each with the beginnings of the names that belong to it. The longest beginning that a
/// name has decides; one that ends in a space stands for the whole name.
const GROUPS: &[(&str, &[&str])] = &[
    (
        "Version and errors",
        &[
            "SPARSESTREAM_OPERATION_",
            "SPARSESTREAM_SIDE_",
            "sparsestream_error",
            "sparsestream_last_error",
            "sparsestream_set_error",
            "sparsestream_operation_name",
            "sparsestream_side_name",
            "sparsestream_version",
        ],
    ),
    (
        "Sections of a file",
        &[
            "SPARSESTREAM_END ",
            "SPARSESTREAM_DATA ",
            "SPARSESTREAM_HOLE ",
            "SPARSESTREAM_KEEP ",
            "sparsestream_section",
            "sparsestream_in_data",
            "sparsestream_map",
            "sparsestream_holes_supported",
        ],
    ),
    (
        "Common to sources and sinks",
        &[
            "SPARSESTREAM_WITH_",
            "SPARSESTREAM_AT_HOLE ",
            "SPARSESTREAM_AT_KEEP ",
            "sparsestream_wait",
            "sparsestream_plan",
        ],
    ),
    ("Sources", &["SPARSESTREAM_IGNORE_MAP ", "SPARSESTREAM_AT_MOST ", "sparsestream_source"]),
    (
        "Sinks",
        &[
            "SPARSESTREAM_SYNC ",
            "SPARSESTREAM_TRUNCATE ",
            "SPARSESTREAM_KNOWN_ZERO ",
            "sparsestream_sink",
        ],
    ),
    (
        "Streams: the caller's protocol as an end",
        &["sparsestream_stream", "sparsestream_source_from_stream", "sparsestream_sink_to_stream"],
    ),
    (
        "Transfers",
        &[
            "SPARSESTREAM_DETECT_ZEROES ",
            "SPARSESTREAM_SPARSE_",
            "sparsestream_transfer",
            "sparsestream_stats",
        ],
    ),
    ("One-call loops", &["sparsestream_send_all", "sparsestream_recv_all"]),
    (
        "Trace: the decisions of a transfer",
        &[
            "SPARSESTREAM_EVENT_",
            "SPARSESTREAM_STAGE_",
            "SPARSESTREAM_WAY_",
            "SPARSESTREAM_HOLE_",
            "SPARSESTREAM_MAP_",
            "SPARSESTREAM_LIMIT_",
            "sparsestream_event",
            "sparsestream_way_name",
            "sparsestream_hole_way_name",
        ],
    ),
    (
        "Ends with requests in flight",
        &[
            "SPARSESTREAM_REQUEST_",
            "SPARSESTREAM_ASYNC_",
            "sparsestream_async",
            "sparsestream_request",
            "sparsestream_source_from_async",
            "sparsestream_sink_to_async",
        ],
    ),
    (
        "The wire",
        &[
            "SPARSESTREAM_WIRE_",
            "sparsestream_wire",
            "sparsestream_transport",
            "sparsestream_source_from_wire",
            "sparsestream_source_wire_info",
            "sparsestream_sink_to_wire",
            "sparsestream_source_from_transport",
            "sparsestream_sink_to_transport",
        ],
    ),
    ("The channel", &["sparsestream_channel"]),
    ("The digest", &["SPARSESTREAM_DIGEST_SIZE ", "sparsestream_digest"]),
];

/// How the comments of the constants of one kind begin, and the comment of the kind.
const KINDS: &[(&str, &str)] = &[
    ("An operation: ", "Operations: `operation` of `sparsestream_error`."),
    ("A side: ", "Sides: `side` of `sparsestream_error` and `sparsestream_wait`."),
    ("A section's kind: ", "Kinds of sections: `kind` of `sparsestream_section`."),
    ("Sparse request: ", "Sparse requests: `sparse` of `sparsestream_transfer_options`."),
    ("An event: ", "Events: `kind` of `sparsestream_event`."),
    ("A stage: ", "Stages of a transfer: `what` of `SPARSESTREAM_EVENT_STAGE`."),
    ("A way for data: ", "Ways in which data moves: `what` of `SPARSESTREAM_EVENT_WAY`."),
    ("A way for holes: ", "Ways in which holes are made: `what` of `SPARSESTREAM_EVENT_HOLE`."),
    ("A map: ", "The map of a source: `what` of `SPARSESTREAM_EVENT_MAP`."),
    ("A limit: ", "Limits of a transfer: `what` of `SPARSESTREAM_EVENT_LIMIT`."),
    ("A request: ", "Requests: `kind` of `sparsestream_request`."),
    ("Flag of `sparsestream_source_options`: ", "Flags: `flags` of `sparsestream_source_options`."),
    ("Flag of `sparsestream_sink_options`: ", "Flags: `flags` of `sparsestream_sink_options`."),
    ("Flag of `sparsestream_wire_options`: ", "Flags: `flags` of `sparsestream_wire_options`."),
    ("Flag of `sparsestream_async_info`: ", "Flags: `flags` of `sparsestream_async_info`."),
];

/// A declaration with its comment.
#[derive(Debug)]
struct Item {
    name: String,
    comment: Vec<String>,
    code: Vec<String>,
}

/// The header with its declarations in order. Fails if one belongs to no group.
pub fn arrange(header: &str) -> Result<String, String> {
    let start = header.find("\n/**\n").ok_or("the header has no declaration")?;
    let (prologue, rest) = header.split_at(start + 1);
    let items = items(rest)?;
    let mut out =
        prologue.trim_end().to_owned() + "\n\n#ifdef __cplusplus\nextern \"C\" {\n#endif\n\n";
    for item in &items {
        if item.code.len() > 1 && item.code[0].starts_with("typedef struct ") {
            out += &format!("struct {};\n", item.name);
        }
    }
    for (title, _) in GROUPS {
        let mut kind = None;
        out += &format!("\n/*\n * {title}\n * {}\n */\n", "=".repeat(title.chars().count()));
        for item in items.iter().filter(|item| group(&item.name) == Some(title)) {
            let text = words(&item.comment);
            let found = KINDS.iter().find(|(start, _)| text.starts_with(start));
            match found.filter(|_| item.code[0].starts_with("#define ")) {
                Some((start, heading)) => {
                    if kind != Some(*heading) {
                        out += &format!("\n/**\n * {heading}\n */\n");
                    }
                    out += &short_comment(&text[start.len()..]);
                    kind = Some(*heading);
                }
                None => {
                    out += "\n";
                    out += &lines(&item.comment);
                    kind = None;
                }
            }
            out += &lines(&item.code);
        }
    }
    if let Some(stray) = items.iter().find(|item| group(&item.name).is_none()) {
        return Err(format!("{} belongs to no group of xtask/src/layout.rs", stray.name));
    }
    Ok(out + "\n#ifdef __cplusplus\n} /* extern \"C\" */\n#endif\n\n#endif /* SPARSESTREAM_H */\n")
}

/// The group of a name.
fn group(name: &str) -> Option<&'static str> {
    let whole = format!("{name} ");
    let starts =
        GROUPS.iter().flat_map(|(title, starts)| starts.iter().map(move |start| (*title, *start)));
    starts
        .filter(|(_, start)| whole.starts_with(start))
        .max_by_key(|(_, start)| start.len())
        .map(|(title, _)| title)
}

/// The declarations below the prologue.
fn items(text: &str) -> Result<Vec<Item>, String> {
    let mut items: Vec<Item> = Vec::new();
    let mut rest = text.lines().peekable();
    while let Some(line) = rest.next() {
        if line != "/**" {
            let known = ["", "#ifdef __cplusplus", "extern \"C\" {", "#endif"];
            if known.contains(&line)
                || line.starts_with("#endif ")
                || line.starts_with("}  // extern")
            {
                continue;
            }
            return Err(format!("not a declaration with a comment: {line}"));
        }
        let mut comment = vec![line.to_owned()];
        for line in rest.by_ref() {
            comment.push(line.to_owned());
            if line == " */" {
                break;
            }
        }
        let mut code = Vec::new();
        let mut inside = false;
        for line in rest.by_ref() {
            code.push(line.to_owned());
            inside |= line.ends_with('{');
            let ends = if inside {
                line.starts_with("} ")
            } else {
                line.ends_with(';') || line.starts_with("#define ")
            };
            if ends {
                break;
            }
        }
        let name = name(&code).ok_or_else(|| format!("a declaration without a name: {code:?}"))?;
        items.push(Item { name, comment, code });
    }
    Ok(items)
}

/// The name that a declaration declares.
fn name(code: &[String]) -> Option<String> {
    let (first, last) = (code.first()?, code.last()?);
    let part = if let Some(rest) = first.strip_prefix("#define ") {
        rest.split(' ').next()
    } else if first.starts_with("typedef ") {
        last.trim_end_matches(';').rsplit(' ').next()
    } else {
        first.split('(').next().and_then(|head| head.rsplit([' ', '*']).next())
    };
    part.map(str::to_owned)
}

/// The words of a comment in one line.
fn words(comment: &[String]) -> String {
    let inner = comment.iter().skip(1).filter(|line| *line != " */");
    inner.map(|line| line.trim_start_matches(" *").trim()).collect::<Vec<_>>().join(" ")
}

/// A comment of at most 110 columns, in as many lines as it takes.
fn short_comment(text: &str) -> String {
    let mut out = String::from("/*");
    let mut column = 2;
    let text = capitalized(text);
    for word in text.split(' ') {
        if column + 1 + word.len() > 107 {
            out += "\n  ";
            column = 2;
        }
        out += " ";
        out += word;
        column += 1 + word.len();
    }
    out + " */\n"
}

/// Text that begins with a capital letter, unless it begins with the name of a function, such as `fsync(2)`.
fn capitalized(text: &str) -> String {
    if text.split(' ').next().is_some_and(|word| word.contains('(')) {
        return text.to_owned();
    }
    let mut letters = text.chars();
    letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect()
}

fn lines(lines: &[String]) -> String {
    lines.iter().map(|line| line.clone() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "#define V 1\n\n/**\n * A side: where the\n * stream goes.\n */\n#define SPARSESTREAM_SIDE_SINK 2\n\n\
        /**\n * A side: neither.\n */\n#define SPARSESTREAM_SIDE_NONE 0\n\n/**\n * A sink.\n */\n\
        typedef struct sparsestream_sink sparsestream_sink;\n\n/**\n * Facts.\n */\ntypedef struct sparsestream_stats {\n    \
        /**\n     * Bytes.\n     */\n    int64_t bytes;\n} sparsestream_stats;\n\n#ifdef __cplusplus\nextern \"C\" {\n\
        #endif // __cplusplus\n\n/**\n * Tells.\n */\nconst char *sparsestream_last_error(void);\n\n#ifdef __cplusplus\n\
        }  // extern \"C\"\n#endif  // __cplusplus\n\n#endif  /* SPARSESTREAM_H */\n";

    #[test]
    fn declarations_stand_in_the_order_of_the_groups() {
        let arranged = arrange(HEADER).unwrap();
        let at = |text: &str| arranged.find(text).unwrap_or_else(|| panic!("{text} in {arranged}"));
        assert!(at("struct sparsestream_stats;") < at("Version and errors"));
        assert!(at("Version and errors") < at("sparsestream_last_error"));
        assert!(at("sparsestream_last_error") < at("typedef struct sparsestream_sink"));
        assert!(at("typedef struct sparsestream_sink") < at("typedef struct sparsestream_stats {"));
    }

    #[test]
    fn constants_of_one_kind_have_one_comment() {
        let arranged = arrange(HEADER).unwrap();
        assert_eq!(arranged.matches("Sides: ").count(), 1);
        assert!(
            arranged.contains("/* Where the stream goes. */\n#define SPARSESTREAM_SIDE_SINK 2\n"),
            "{arranged}"
        );
        assert!(!arranged.contains("A side:"));
    }

    #[test]
    fn a_name_of_no_group_is_an_error() {
        let header = "#define V 1\n\n/**\n * New.\n */\nint sparsestream_new(void);\n";
        assert!(arrange(header).unwrap_err().starts_with("sparsestream_new belongs to no group"));
    }

    #[test]
    fn the_longest_beginning_decides() {
        assert_eq!(group("sparsestream_source_from_wire"), Some("The wire"));
        assert_eq!(group("sparsestream_source_free"), Some("Sources"));
        assert_eq!(group("SPARSESTREAM_HOLE"), Some("Sections of a file"));
        assert_eq!(group("SPARSESTREAM_HOLE_PUNCHED"), Some("Trace: the decisions of a transfer"));
    }

    #[test]
    fn a_comment_begins_with_a_capital_letter_unless_it_names_a_function() {
        assert_eq!(short_comment("where it goes."), "/* Where it goes. */\n");
        assert_eq!(short_comment("fsync(2) the file."), "/* fsync(2) the file. */\n");
    }

    #[test]
    fn a_long_comment_is_folded() {
        let folded = short_comment(&"word ".repeat(40));
        assert!(
            folded.lines().count() > 1 && folded.lines().all(|line| line.len() <= 110),
            "{folded}"
        );
    }
}
