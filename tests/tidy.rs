//! The rules of the house, checked: who may import what, and how long a file may get.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// Every source file, as its path below `src/`, and its text without its own tests.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let text = text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
                files.push((path.strip_prefix(&root).unwrap().display().to_string(), text));
            }
        }
    }
    assert!(files.len() > 15, "the sources are found");
    files.sort();
    files
}

/// The lines of code, without comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| line.split("//").next().unwrap_or_default())
}

/// What a file belongs to: `hub/threads.rs` and `hub.rs` to `hub`.
fn room(path: &str) -> &str {
    path.split(['/', '.']).next().unwrap()
}

fn floor(room: &str) -> u8 {
    match room {
        "protocol" | "config" | "metrics" => 1,
        "hub" | "wire" => 2,
        "connection" | "upstream" | "process" => 3,
        "server" | "journal" | "doctor" | "load" => 4,
        "main" | "lib" | "cli" => 5,
        other => panic!("{other} has no floor: give it one here and in lib.rs"),
    }
}

/// The other rooms of this crate that a file names.
fn rooms_named(text: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for line in code(text) {
        for (at, _) in line.match_indices("crate::") {
            let rest = &line[at + "crate::".len()..];
            let names = rest.strip_prefix('{').unwrap_or(rest);
            let end = names.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(names.len());
            rooms.push(names[..end].to_owned());
        }
    }
    rooms
}

#[test]
fn a_file_imports_only_from_lower_floors_and_its_own_room() {
    for (path, text) in sources() {
        for named in rooms_named(&text) {
            let allowed = named == room(&path) || floor(&named) < floor(room(&path));
            // The vocabulary of the hub is what the shell speaks; the wire has no need of it.
            assert!(allowed, "{path} imports from {named}");
        }
    }
}

#[test]
fn each_library_is_named_only_where_it_belongs() {
    for (word, rooms) in [
        ("mio::", &["server", "connection", "upstream", "load"][..]),
        ("socket2::", &["server", "load"]),
        ("rustix::", &["connection", "load"]),
        ("signal_hook", &["server"]),
        ("slab::", &["server", "hub"]),
        ("hashbrown::", &["hub"]),
        ("smallvec::", &["hub"]),
        ("tungstenite::", &["wire", "protocol", "load", "doctor"]),
        ("httparse::", &["wire", "load", "doctor"]),
        ("percent_encoding::", &["wire"]),
        ("ipnet::", &["config"]),
        ("ureq::", &["upstream"]),
        ("crossbeam_channel::", &["upstream", "journal"]),
        ("std::thread", &["upstream", "journal", "doctor"]),
        ("std::net::Tcp", &["main", "server"]),
        ("webpki_roots::", &["doctor"]),
        ("clap::", &["cli", "config", "main", "load"]),
        ("listenfd::", &["main"]),
        ("sd_notify::", &["server"]),
        ("simple_logger::", &["journal"]),
        ("log::", &["server", "upstream", "main", "config", "journal"]),
        ("ring::", &["protocol", "upstream", "config"]),
        ("rustls::", &["config", "connection", "doctor"]),
        ("base64::", &["protocol", "upstream"]),
        ("itoa::", &["protocol"]),
        ("zeroize::", &["protocol", "config", "wire", "hub", "load", "doctor"]),
        ("Instant::now", &["server", "upstream", "journal", "load", "doctor"]),
        ("SystemTime::now", &["server", "journal", "doctor"]),
    ] {
        for (path, text) in sources() {
            // A word of its own: `log::` and not `catalog::`, ours and not a sibling's.
            let names = |line: &str| {
                line.match_indices(word).any(|(at, _)| {
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
                })
            };
            if !rooms.contains(&room(&path)) {
                assert!(!code(&text).any(names), "{path} names {word}");
            }
        }
    }
}

#[test]
fn mio_reaches_the_upstream_only_as_its_waker() {
    for (path, text) in sources().iter().filter(|(path, _)| room(path) == "upstream") {
        for line in code(text).filter(|line| line.contains("mio::")) {
            assert!(line.contains("mio::Waker"), "{path}: {line}");
        }
    }
}

#[test]
fn in_the_upstream_only_the_blocking_calls_look_at_a_clock() {
    for (path, text) in sources().iter().filter(|(path, _)| room(path) == "upstream") {
        let looks = code(text).any(|line| line.contains("Instant::now"));
        assert!(!looks || path == "upstream/site.rs", "{path}");
    }
}

#[test]
fn in_the_doctor_only_who_looks_has_sockets_files_and_a_clock() {
    let words = ["Tcp", "Instant", "SystemTime", "File", "std::thread", "Visitor::new", "Write"];
    for (path, text) in sources().iter().filter(|(path, _)| path.starts_with("doctor/judge")) {
        for word in words {
            assert!(!code(text).any(|line| line.contains(word)), "{path} names {word}");
        }
    }
}

#[test]
fn nothing_is_shared_behind_a_lock_and_nothing_is_left_undone() {
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
fn no_document_has_a_place_that_was_never_filled() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in [
        "README.md",
        "CHANGELOG.md",
        "docs/ARCHITECTURE.md",
        "docs/PROTOCOL.md",
        "docs/SECURITY.md",
        "docs/OPERATIONS.md",
        "benches/README.md",
    ] {
        for line in fs::read_to_string(root.join(file)).unwrap().lines() {
            for word in line.split_whitespace() {
                let shouted = word.len() > 10
                    && word.chars().all(|c| "-ABCDEFGHIJKLMNOPQRSTUVWXYZ".contains(c));
                assert!(!shouted, "{file}: {word}");
            }
        }
    }
}

#[test]
fn each_bench_and_each_counted_path_is_in_the_readme_of_the_benches() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches");
    let readme = fs::read_to_string(folder.join("README.md")).unwrap();
    let manifest = fs::read_to_string(folder.join("../Cargo.toml")).unwrap();
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
    let stated = fs::read_to_string(folder.join("instructions.txt")).unwrap();
    for line in stated.lines().filter(|line| !line.starts_with('#')).skip(1) {
        let path = line.split(' ').next().unwrap();
        let kind = path.trim_end_matches(|c: char| c.is_ascii_digit());
        let named = [format!("`{path}`"), format!("`{kind}N`")].iter().any(|n| readme.contains(n));
        assert!(named, "{path} is not explained");
    }
}

#[test]
fn no_file_is_longer_than_five_hundred_lines_and_no_line_than_a_hundred_columns() {
    for (path, text) in sources() {
        let whole =
            fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(&path));
        let lines = whole.unwrap().lines().count();
        assert!(lines <= 500, "{path} has {lines} lines");
        for line in text.lines() {
            assert!(line.chars().count() <= 100 || line.contains('"'), "{path}: {line}");
        }
        assert!(text.starts_with("//! "), "{path} says first what it is");
    }
}
