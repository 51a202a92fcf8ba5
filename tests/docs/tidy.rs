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
fn top_module(path: &str) -> &str {
    path.split(['/', '.']).next().unwrap()
}

fn layer(top_module: &str) -> u8 {
    match top_module {
        "protocol" | "config" | "metrics" => 1,
        "hub" | "wire" => 2,
        "connection" | "upstream" | "process" => 3,
        "server" | "journal" | "doctor" | "load" => 4,
        "main" | "lib" | "cli" => 5,
        other => panic!("{other} has no floor: give it one here and in lib.rs"),
    }
}

/// The other rooms of this crate that a file names.
fn imported_modules(text: &str) -> Vec<String> {
    let mut modules = Vec::new();
    for line in code(text) {
        for (at, _) in line.match_indices("crate::") {
            let rest = &line[at + "crate::".len()..];
            let names = rest.strip_prefix('{').unwrap_or(rest);
            let end = names.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(names.len());
            modules.push(names[..end].to_owned());
        }
    }
    modules
}

#[test]
fn module_imports_respect_the_layers() {
    for (path, text) in sources() {
        for named in imported_modules(&text) {
            let allowed = named == top_module(&path) || layer(&named) < layer(top_module(&path));
            // The vocabulary of the hub is what the shell speaks; the wire has no need of it.
            assert!(allowed, "{path} imports from {named}");
        }
    }
}

#[test]
fn each_crate_is_used_only_in_its_modules() {
    for (word, modules) in [
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
            if !modules.contains(&top_module(&path)) {
                assert!(!code(&text).any(names), "{path} names {word}");
            }
        }
    }
}

#[test]
fn upstream_uses_mio_only_for_its_waker() {
    for (path, text) in sources().iter().filter(|(path, _)| top_module(path) == "upstream") {
        for line in code(text).filter(|line| line.contains("mio::")) {
            assert!(line.contains("mio::Waker"), "{path}: {line}");
        }
    }
}

#[test]
fn upstream_reads_the_clock_only_in_blocking_calls() {
    for (path, text) in sources().iter().filter(|(path, _)| top_module(path) == "upstream") {
        let looks = code(text).any(|line| line.contains("Instant::now"));
        assert!(!looks || path == "upstream/site.rs", "{path}");
    }
}

#[test]
fn doctor_does_io_only_in_its_look_module() {
    let words = ["Tcp", "Instant", "SystemTime", "File", "std::thread", "Visitor::new", "Write"];
    for (path, text) in sources().iter().filter(|(path, _)| path.starts_with("doctor/judge")) {
        for word in words {
            assert!(!code(text).any(|line| line.contains(word)), "{path} names {word}");
        }
    }
}

#[test]
fn sources_have_no_locks_and_no_todos() {
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
fn documents_have_no_placeholders() {
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
fn benches_readme_lists_every_bench_and_path() {
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
fn files_and_lines_stay_within_the_size_limits() {
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
