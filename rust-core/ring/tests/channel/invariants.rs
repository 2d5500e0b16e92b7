//! Every numbered invariant of SPEC.md names tests, and these exist.

use crate::layout::specification;
use std::path::Path;

/// `(number, tests)` of every line "**I7.** … Tests: `a::b`, `c::d`." paragraph.
fn invariants(text: &str) -> Vec<(u32, Vec<String>)> {
    let paragraphs = text.split("\n\n").filter_map(|paragraph| paragraph.trim().strip_prefix("**I"));
    let parse = |paragraph: &str| {
        let (number, rest) = paragraph.split_once(".**").expect("an invariant begins with **I<number>.**");
        let (_, tests) = rest.split_once("Tests:").unwrap_or((rest, ""));
        let tests = tests.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        (number.parse().expect("an invariant has a number"), tests)
    };
    paragraphs.map(parse).collect()
}

/// Whether `file::function` is a test of this repository. `file` is a path below `rust-core/ring` or `ringbuf-spec`.
fn exists(id: &str) -> bool {
    let Some((file, function)) = id.split_once("::") else { return false };
    let ring = Path::new(env!("CARGO_MANIFEST_DIR"));
    [ring.join(file), specification().join(file)].iter().any(|path| {
        let source = std::fs::read_to_string(path).unwrap_or_default();
        let test_follows = |marker: &str, signature: String| {
            source.match_indices(&signature).any(|(at, _)| {
                let before = &source[..at];
                marker.is_empty() || before[before.len().saturating_sub(120)..].contains(marker)
            })
        };
        test_follows("#[test]", format!("fn {function}(")) || test_follows("", format!("def {function}("))
    })
}

#[test]
fn every_invariant_of_the_specification_has_a_test() {
    let text = std::fs::read_to_string(specification().join("SPEC.md")).unwrap();
    let invariants = invariants(&text);
    assert!(invariants.len() >= 12, "found only {}", invariants.len());
    for (index, (number, tests)) in invariants.iter().enumerate() {
        assert_eq!(*number, index as u32 + 1, "invariants are numbered without gaps");
        assert!(!tests.is_empty(), "I{number} names no test");
        for test in tests {
            assert!(exists(test), "I{number} names {test}, which does not exist");
        }
    }
}

#[test]
fn a_test_that_does_not_exist_is_noticed() {
    assert!(exists("tests/channel/invariants.rs::a_test_that_does_not_exist_is_noticed"));
    assert!(!exists("tests/channel/invariants.rs::no_such_test"));
    assert!(!exists("tests/channel/invariants.rs::exists"), "a function that is no test");
    assert_eq!(invariants("**I1.** Text.\nTests: `a.rs::b`,\n`c.py::d`.")[0].1, ["a.rs::b", "c.py::d"]);
}
