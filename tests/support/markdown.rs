//! Parses the Markdown that our documents use: headings, tables, fenced blocks, links.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A document, split into the parts that tests check.
#[derive(Default)]
pub struct Document {
    pub path: PathBuf,
    pub blocks: Vec<Block>,
    pub rows: Vec<Row>,
    pub links: Vec<Link>,
    pub anchors: BTreeSet<String>,
    /// The whole text.
    pub text: String,
}

/// A fenced block.
pub struct Block {
    pub line: usize,
    /// The heading above it, without its `#`.
    pub heading: String,
    /// The last line above it that is not empty.
    pub above: String,
    pub language: String,
    pub text: String,
}

/// A row of a table, without the header row.
pub struct Row {
    pub line: usize,
    pub heading: String,
    pub header: Vec<String>,
    pub cells: Vec<String>,
}

pub struct Link {
    pub line: usize,
    pub target: String,
}

impl Document {
    /// Reads a document; the path is relative to the root of the project.
    pub fn read(path: &str) -> Document {
        let path = root().join(path);
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut document = Document { path, text, ..Document::default() };
        document.parse();
        document
    }

    /// The rows of all tables whose first column has this header.
    pub fn table(&self, first_column: &str) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.header[0] == first_column)
    }

    fn parse(&mut self) {
        let text = self.text.clone();
        let mut lines = text.lines().enumerate().map(|(at, line)| (at + 1, line));
        let (mut heading, mut above, mut header) = (String::new(), String::new(), None);
        while let Some((line, content)) = lines.next() {
            if let Some(language) = content.trim_start().strip_prefix("```") {
                let body = lines.by_ref().map(|(_, l)| l).take_while(|l| l.trim_start() != "```");
                let body: Vec<_> = body.collect();
                let (heading, above) = (heading.clone(), above.clone());
                let (language, text) = (language.to_owned(), body.join("\n"));
                self.blocks.push(Block { line, heading, above, language, text });
                continue;
            }
            let marks = content.bytes().take_while(|b| *b == b'#').count();
            if marks > 0 && content[marks..].starts_with(' ') {
                heading = content[marks..].trim().to_owned();
                self.add_anchor(&heading);
            }
            match (content.starts_with('|'), &header) {
                (true, None) => header = Some(cells(content)),
                (true, Some(header)) if !content.starts_with("| ---") => {
                    let (heading, header) = (heading.clone(), header.clone());
                    self.rows.push(Row { line, heading, header, cells: cells(content) });
                }
                (true, Some(_)) => {}
                (false, _) => header = None,
            }
            self.links.extend(targets(content).map(|target| Link { line, target }));
            if !content.trim().is_empty() {
                above = content.to_owned();
            }
        }
    }

    /// Adds the anchor of a heading as GitHub generates it.
    fn add_anchor(&mut self, heading: &str) {
        let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
        let anchor: String = heading.to_lowercase().chars().filter(kept).collect();
        let anchor = anchor.replace(' ', "-");
        let again = (1..).map(|n| format!("{anchor}-{n}"));
        let free = std::iter::once(anchor.clone()).chain(again).find(|a| !self.anchors.contains(a));
        self.anchors.extend(free);
    }
}

impl Row {
    /// The name in the first cell: the first text in backticks.
    pub fn name(&self) -> &str {
        self.cells[0].split('`').nth(1).unwrap_or_else(|| panic!("line {}: no name", self.line))
    }

    /// All words of all cells, such as flags and variables.
    pub fn words(&self) -> BTreeSet<&str> {
        self.cells.iter().flat_map(|cell| words(cell)).collect()
    }
}

/// The root of the project.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn words(text: &str) -> impl Iterator<Item = &str> {
    let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    text.split(move |c| !inside(c)).filter(|word| !word.is_empty())
}

fn cells(line: &str) -> Vec<String> {
    let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
    inner.split('|').map(|cell| cell.trim().to_owned()).collect()
}

/// The targets of the links and images in a line, except those in code.
fn targets(line: &str) -> impl Iterator<Item = String> {
    let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
    let ends = [("](", ')'), ("href=\"", '"'), ("src=\"", '"')];
    let mut found = Vec::new();
    for (start, end) in ends {
        for rest in prose.split(start).skip(1) {
            found.extend(rest.split(end).next().map(|target| target.trim().to_owned()));
        }
    }
    found.into_iter()
}
