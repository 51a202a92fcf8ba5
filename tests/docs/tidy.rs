//! Checks the rules of the source tree: layers, libraries, hub modules, language.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files below `folder` with one of these endings, as paths relative to the project's root.
fn files_below(folder: &str, endings: &[&str]) -> Vec<String> {
    let mut files = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() && !["target", "node_modules", "fixtures", "seeds"].contains(&name) {
                folders.push(path);
            } else if path.extension().is_some_and(|e| endings.iter().any(|end| e == *end)) {
                files.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    files.sort();
    files
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Every source file: its path below `src/`, and its text without its own tests.
fn sources() -> Vec<(String, String)> {
    let files = files_below("src", &["rs"]);
    assert!(files.len() > 15, "the sources are found");
    let without_tests =
        |text: String| text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
    files.iter().map(|f| (f["src/".len()..].to_owned(), without_tests(read(f)))).collect()
}

/// The lines of code, without comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| line.split("//").next().unwrap_or_default())
}

/// The top-level module of a file: `hub` for `hub/threads.rs` and `hub.rs`.
fn module(path: &str) -> &str {
    path.split(['/', '.']).next().unwrap()
}

/// The layer of a top-level module, as in ARCHITECTURE.md. A module imports from lower layers only.
fn layer(module: &str) -> u8 {
    match module {
        "protocol" | "config" | "metrics" => 1,
        "hub" | "http" => 2,
        "wire" => 3,
        "connection" | "upstream" | "process" => 4,
        "server" | "journal" | "doctor" | "load" => 5,
        "main" | "lib" | "cli" => 6,
        other => panic!("{other} has no layer: add it here and in lib.rs"),
    }
}

/// Modules below the line do no I/O and read no clock; `config` reads its files all the same.
fn is_below_the_line(module: &str) -> bool {
    layer(module) <= layer("hub") && module != "config"
}

/// The module names at the head of paths that begin with `prefix`, grouped imports included:
/// `crate::{config::X, hub::{a, b}}` names `config` and `hub`.
fn heads_of(text: &str, prefix: &str) -> BTreeSet<String> {
    let code: String = code(text).flat_map(|line| [line, "\n"]).collect();
    let mut heads = BTreeSet::new();
    for (at, _) in code.match_indices(prefix) {
        let is_inside_word =
            code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
        if is_inside_word {
            continue;
        }
        let rest = code[at + prefix.len()..].trim_start();
        match rest.strip_prefix('{') {
            None => heads.extend(identifier(rest)),
            Some(group) => {
                let (mut depth, mut start) = (0, 0);
                for (n, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => {
                            heads.extend(identifier(&group[start..n]));
                            break;
                        }
                        '}' => depth -= 1,
                        ',' if depth == 0 => {
                            heads.extend(identifier(&group[start..n]));
                            start = n + 1;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    heads
}

fn identifier(text: &str) -> Option<String> {
    let text = text.trim_start();
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}

#[test]
fn grouped_and_nested_imports_are_understood() {
    let text =
        "use crate::{config::X, hub::{a, b},\n    wire};\nuse crate::load::y; // crate::no\n";
    let found = heads_of(text, "crate::");
    assert_eq!(found, ["config", "hub", "load", "wire"].map(String::from).into());
}

#[test]
fn modules_import_only_from_lower_layers() {
    for (path, text) in sources() {
        for named in heads_of(&text, "crate::") {
            let allowed = named == module(&path) || layer(&named) < layer(module(&path));
            assert!(allowed, "{path} imports from {named}");
        }
    }
}

#[test]
fn modules_below_the_line_do_no_io_and_read_no_clock() {
    let words = ["std::fs", "std::net::", "std::io", "std::process", "Instant::now", "::now("];
    // Addresses and error kinds are values; opening something is I/O.
    let values =
        ["std::net::IpAddr", "std::net::{IpAddr", "std::net::SocketAddr", "std::io::Cursor"];
    let listed = BTreeSet::from(["wire.rs", "wire/outbox.rs"]);
    for (path, text) in sources().iter().filter(|(path, _)| is_below_the_line(module(path))) {
        for line in code(text).filter(|line| words.iter().any(|word| line.contains(word))) {
            let is_value = values.iter().any(|value| line.contains(value))
                || (line.contains("std::io") && listed.contains(path.as_str()));
            assert!(is_value, "{path} does I/O or reads a clock: {line}");
        }
    }
}

#[test]
fn each_library_is_named_only_where_it_belongs() {
    for (word, modules) in [
        ("mio::", &["server", "connection", "upstream", "load"][..]),
        ("socket2::", &["server", "load"]),
        ("rustix::", &["connection", "load"]),
        ("signal_hook", &["server"]),
        ("slab::", &["server", "hub"]),
        ("hashbrown::", &["hub"]),
        ("smallvec::", &["hub"]),
        ("tungstenite::", &["wire", "http", "protocol", "load", "doctor"]),
        ("httparse::", &["http", "load", "doctor"]),
        ("percent_encoding::", &["http"]),
        ("ipnet::", &["config"]),
        ("ureq::", &["upstream"]),
        ("httpdate::", &["server", "upstream"]),
        ("procfs::", &["process", "doctor"]),
        ("crossbeam_channel::", &["upstream", "journal"]),
        ("std::thread", &["upstream", "journal", "doctor"]),
        ("std::net::Tcp", &["main", "server"]),
        ("webpki_roots::", &["doctor"]),
        ("rustls_native_certs::", &["config"]),
        ("openssl_probe::", &["config"]),
        ("x509_cert::", &["config"]),
        ("hdrhistogram::", &["load"]),
        ("clap::", &["cli", "config", "main", "load"]),
        ("listenfd::", &["main"]),
        ("sd_notify::", &["server"]),
        ("simple_logger::", &["journal"]),
        ("log::", &["server", "upstream", "main", "config", "journal"]),
        ("ring::", &["protocol", "upstream", "config"]),
        ("rustls::", &["config", "connection", "doctor"]),
        ("base64::", &["protocol", "upstream", "config"]),
        ("itoa::", &["protocol"]),
        ("zeroize::", &["protocol", "config", "http", "hub", "load", "doctor"]),
        ("Instant::now", &["server", "upstream", "journal", "load", "doctor"]),
        ("SystemTime::now", &["server", "journal", "doctor"]),
    ] {
        for (path, text) in sources() {
            // `log::` as a word of its own: not in `catalog::` or `super::log::`.
            let names = |line: &str| {
                line.match_indices(word).any(|(at, _)| {
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
                })
            };
            if !modules.contains(&module(&path)) {
                assert!(!code(&text).any(names), "{path} names {word}");
            }
        }
    }
}

#[test]
fn upstream_uses_only_the_waker_of_mio() {
    for (path, text) in sources().iter().filter(|(path, _)| module(path) == "upstream") {
        for line in code(text).filter(|line| line.contains("mio::")) {
            assert!(line.contains("mio::Waker"), "{path}: {line}");
        }
    }
}

#[test]
fn in_upstream_only_blocking_calls_read_a_clock() {
    for (path, text) in sources().iter().filter(|(path, _)| module(path) == "upstream") {
        let reads = code(text).any(|line| line.contains("Instant::now"));
        assert!(!reads || path == "upstream/site.rs", "{path}");
    }
}

#[test]
fn doctor_judgement_has_no_sockets_files_or_clock() {
    let words =
        ["Tcp", "Instant", "SystemTime", "File", "std::thread", "ProbeClient::new", "Write"];
    for (path, text) in sources().iter().filter(|(path, _)| path.starts_with("doctor/judge")) {
        for word in words {
            assert!(!code(text).any(|line| line.contains(word)), "{path} names {word}");
        }
    }
}

// ---- the hub

/// The modules of the hub, without its vocabulary (`interface`), which all of them share.
fn hub_modules() -> BTreeMap<String, String> {
    let mut modules = BTreeMap::<String, String>::new();
    for (path, text) in sources().into_iter().filter(|(path, _)| module(path) == "hub") {
        let name = path.trim_start_matches("hub/").split(['/', '.']).next().unwrap().to_owned();
        if name != "interface" {
            modules.entry(name).or_default().push_str(&text);
        }
    }
    modules
}

/// The `impl Hub` blocks of a text.
fn hub_blocks(text: &str) -> String {
    let blocks = text.split("\nimpl Hub {").skip(1);
    blocks.map(|block| block.split("\n}\n").next().unwrap()).collect()
}

/// The functions in the `impl Hub` blocks of a text.
fn hub_functions(text: &str) -> BTreeSet<String> {
    hub_blocks(text).split(" fn ").skip(1).filter_map(identifier).collect()
}

/// Which modules of the hub each one calls or imports from.
fn hub_edges() -> BTreeSet<(String, String)> {
    let modules = hub_modules();
    let functions: BTreeMap<&str, BTreeSet<String>> =
        modules.iter().map(|(name, text)| (name.as_str(), hub_functions(text))).collect();
    let mut edges = BTreeSet::new();
    for (name, text) in &modules {
        let mut named = heads_of(text, "crate::hub::");
        // In a file of a folder, `super` is the folder's own module.
        named.extend(heads_of(text, "super::").into_iter().filter(|n| modules.contains_key(n)));
        let calls: BTreeSet<String> = code(&hub_blocks(text))
            .flat_map(|line| line.split("self.").skip(1))
            .filter(|rest| identifier(rest).is_some_and(|n| rest[n.len()..].starts_with('(')))
            .filter_map(identifier)
            .collect();
        for (other, defined) in &functions {
            if !defined.is_disjoint(&calls) {
                named.insert((*other).to_owned());
            }
        }
        // The hub itself declares all modules and owns their tables.
        named.retain(|other| other != name && modules.contains_key(other));
        edges.extend(named.into_iter().map(|other| (name.clone(), other)));
    }
    edges
}

#[test]
fn no_two_modules_of_the_hub_depend_on_each_other() {
    let edges = hub_edges();
    assert!(edges.len() > 30, "the edges are found: {edges:?}");
    assert!(edges.contains(&("outcomes".into(), "session".into())), "calls are found");
    for (from, to) in &edges {
        let both = edges.contains(&(to.clone(), from.clone()));
        assert!(!both, "{from} and {to} depend on each other");
    }
}

#[test]
fn no_module_calls_back_into_the_dispatcher() {
    let calls = hub_edges().into_iter().filter(|(_, to)| to == "hub");
    assert_eq!(calls.collect::<Vec<_>>(), []);
}

#[test]
fn trust_is_decided_in_two_modules() {
    for (name, text) in hub_modules() {
        let decides = code(&text).any(|line| line.contains("Trust::"));
        assert_eq!(decides, ["auth", "access"].contains(&name.as_str()), "{name}");
    }
}

#[test]
fn hub_has_at_most_fourteen_fields() {
    let text = read("src/hub.rs");
    let body = text.split("pub struct Hub {").nth(1).unwrap().split("\n}\n").next().unwrap();
    let fields = code(body).filter(|line| line.trim_end().ends_with(',')).count();
    assert!((10..=14).contains(&fields), "{fields}");
}

// ---- style

#[test]
fn sources_have_no_locks_unwraps_or_open_ends() {
    for (path, text) in sources() {
        for word in [
            "Mutex",
            "RwLock",
            "RefCell",
            "unsafe ",
            "static mut",
            "todo!",
            "unimplemented!",
            "TODO",
            "FIXME",
            ".unwrap()",
            "dbg!",
            "println!",
            "thread_local",
            "OnceLock",
        ] {
            let found = match word {
                "TODO" | "FIXME" => text.contains(word),
                _ => code(&text).any(|line| line.contains(word)),
            };
            assert!(!found, "{path} has {word}");
        }
    }
}

#[test]
fn sources_have_a_head_and_lines_of_a_hundred_columns() {
    for (path, text) in sources() {
        for line in text.lines() {
            assert!(line.chars().count() <= 100 || line.contains('"'), "{path}: {line}");
        }
        assert!(text.starts_with("//! "), "{path} has a head that says what it does");
    }
}

#[test]
fn documents_have_no_placeholder() {
    for file in documents() {
        for line in read(&file).lines() {
            for word in line.split_whitespace() {
                let shouted = word.len() > 10
                    && word.chars().all(|c| "-ABCDEFGHIJKLMNOPQRSTUVWXYZ".contains(c));
                assert!(!shouted, "{file}: {word}");
            }
        }
    }
}

#[test]
fn each_bench_and_counted_path_is_explained() {
    let readme = read("benches/README.md");
    let manifest = read("Cargo.toml");
    let benches = manifest.split("[[bench]]\nname = \"").skip(1).map(|bench| {
        let (name, settings) = bench.split_once('"').unwrap();
        (name, settings.split("[[").next().unwrap().contains("bench = false"))
    });
    let timed: Vec<&str> = benches.filter(|(_, only_built)| !only_built).map(|b| b.0).collect();
    assert!(timed.len() > 3, "the benches are found");
    for name in timed {
        assert!(readme.contains(&format!("| `{name}` |")), "{name} answers no question");
    }
    // The first line names the tools.
    let stated = read("benches/instructions.txt");
    for line in stated.lines().filter(|line| !line.starts_with('#')).skip(1) {
        let path = line.split(' ').next().unwrap();
        let kind = path.trim_end_matches(|c: char| c.is_ascii_digit());
        let named = [format!("`{path}`"), format!("`{kind}N`")].iter().any(|n| readme.contains(n));
        assert!(named, "{path} is not explained");
    }
}

// ---- language

/// The project's documents.
fn documents() -> Vec<String> {
    let mut files = files_below("docs", &["md"]);
    let at_root = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().file_name());
    let at_root = at_root.map(|name| name.to_str().unwrap().to_owned());
    files.extend(at_root.filter(|name| name.ends_with(".md")));
    files.extend(["benches/README.md", "fuzz/README.md"].map(String::from));
    assert!(files.len() > 7, "the documents are found");
    files
}

/// The prose of a Markdown text: paragraphs without code blocks.
fn prose_of_markdown(text: &str) -> String {
    let blocks = text.split("```").step_by(2);
    blocks.flat_map(|block| block.lines().chain([""])).fold(String::new(), |all, line| {
        // A row of a table or an item of a list begins a sentence of its own.
        let line = line.trim_start_matches([' ', '-', '*', '#', '>']);
        let line = line.replace('|', "\n\n");
        let line = line.trim_start();
        if line.is_empty() { all + "\n\n" } else { all + line + "\n" }
    })
}

/// The prose of a source: its comments, one paragraph for each block.
fn prose_of_comments(text: &str, mark: &str) -> String {
    let mut prose = String::new();
    for line in text.lines() {
        let comment = line.trim_start().strip_prefix(mark);
        match comment.map(|comment| comment.trim_start_matches(['/', '!']).trim()) {
            Some(comment) if !comment.is_empty() => prose.extend([comment, "\n"]),
            _ => prose.push('\n'),
        }
    }
    prose
}

/// The sentences of a text whose paragraphs are parted by empty lines.
fn sentences(prose: &str) -> Vec<String> {
    let mut sentences = Vec::new();
    for paragraph in prose.split("\n\n") {
        let words: Vec<&str> = paragraph.split_whitespace().collect();
        let mut from = 0;
        for (n, word) in words.iter().enumerate() {
            let ends = word.trim_end_matches([')', '*', '`', '"']).ends_with(['.', '!', '?']);
            if ends || n + 1 == words.len() {
                sentences.push(words[from..=n].join(" "));
                from = n + 1;
            }
        }
    }
    sentences
}

/// Whether a sentence begins with a relative clause in place of a noun, such as "Who reads slowly
/// is closed." A question is none.
fn is_headless(sentence: &str) -> bool {
    let first = sentence.trim_start_matches(['*', '_', '(', '"', '[']);
    let heads = ["Who ", "Whoever ", "Whom ", "Whose ", "What ", "Whatever "];
    // Headings and cells of a table are no sentences.
    let is_sentence = sentence.trim_end_matches([')', '*', '`', '"']).ends_with(['.', ':']);
    heads.iter().any(|head| first.starts_with(head)) && is_sentence && !sentence.contains('?')
}

#[test]
fn headless_sentences_are_found() {
    let prose = "Ping it. Who is slow\nmisses it.\n\nWho asks?\n\nWhose it is, is known.";
    let found: Vec<String> = sentences(prose).into_iter().filter(|s| is_headless(s)).collect();
    assert_eq!(found, ["Who is slow misses it.", "Whose it is, is known."]);
}

/// Texts with their prose, as path and sentences: documents, Rust comments, scripts.
fn all_prose() -> Vec<(String, Vec<String>)> {
    let mut prose: Vec<(String, String)> =
        documents().into_iter().map(|f| (f.clone(), prose_of_markdown(&read(&f)))).collect();
    for folder in ["src", "tests", "benches", "examples", "fuzz"] {
        for file in files_below(folder, &["rs"]) {
            prose.push((file.clone(), prose_of_comments(&read(&file), "//")));
        }
        for file in files_below(folder, &["toml", "py", "mjs"]) {
            let mark = if file.ends_with("mjs") { "//" } else { "#" };
            prose.push((file.clone(), prose_of_comments(&read(&file), mark)));
        }
    }
    for file in ["Cargo.toml", ".ci/run", ".ci/smoke", ".ci/page"] {
        prose.push((file.to_owned(), prose_of_comments(&read(file), "#")));
    }
    prose.into_iter().map(|(file, text)| (file, sentences(&text))).collect()
}

#[test]
fn no_sentence_begins_with_a_headless_clause() {
    let mut found = Vec::new();
    for (file, sentences) in all_prose() {
        let headless = sentences.into_iter().filter(|s| is_headless(s));
        found.extend(headless.map(|sentence| format!("{file}: {sentence}")));
    }
    // This file quotes some.
    found.retain(|line| !line.contains("tidy.rs: "));
    assert!(found.is_empty(), "{} headless sentences:\n{}", found.len(), found.join("\n"));
}

/// Identifiers that only their author could decode; ENGLISH.md has their plain names.
const BANNED_NAMES: [&str; 27] = [
    "heirs",
    "Heirs",
    "Told",
    "telling",
    "tally",
    "Tally",
    "entrance",
    "posting",
    "switchboard",
    "repeats",
    "Repeats",
    "crowd",
    "Crowd",
    "bulk",
    "Bulk",
    "intake",
    "scrapes",
    "remarks",
    "Remarks",
    "condemn",
    "vouch",
    "turn_out",
    "let_go",
    "Brought",
    "Hears",
    "flock",
    "ears",
];

#[test]
fn banned_names_do_not_come_back() {
    let files = ["src", "tests", "benches", "examples", "fuzz"].into_iter();
    for file in files.flat_map(|folder| files_below(folder, &["rs"])) {
        if file.ends_with("tidy.rs") {
            continue;
        }
        let text = read(&file);
        for line in code(&text) {
            // Text in quotes is prose.
            let line: String = line.split('"').step_by(2).collect();
            for word in line.split(|c: char| !c.is_alphanumeric() && c != '_') {
                assert!(!BANNED_NAMES.contains(&word), "{file} has the name {word}");
            }
        }
        let stem = Path::new(&file).file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(!BANNED_NAMES.contains(&stem.as_str()), "{file}");
    }
}

#[test]
fn test_names_have_at_most_seventy_characters() {
    let mut tests = 0;
    for folder in ["src", "tests"] {
        for file in files_below(folder, &["rs"]) {
            let text = read(&file);
            for test in text.split("#[test]").skip(1) {
                let name = test.split("fn ").nth(1).and_then(identifier).unwrap_or_default();
                assert!(name.len() <= 70, "{file}: {name}");
                tests += 1;
            }
        }
    }
    assert!(tests > 500, "the tests are found");
}
