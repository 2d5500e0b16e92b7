//! The text of a `.proto` file, before it is parsed: the parser goes into its parts by recursion, and what is made of it
//! has the full name of everything.
//!
//! Refused is what would take the stack or the memory. All else that is wrong with a text is the parser's to say, except
//! where the two could disagree on where a comment or a string ends.

/// Messages and options lie at most so deep in each other.
const DEPTH_MAX: usize = 200;
/// The full names of all that is in a text have at most so many bytes together, generously counted.
const NAMES_BYTES_MAX: usize = 64 << 20;

/// Says what of the text nobody should parse.
pub(super) fn check(text: &str) -> Result<(), String> {
    let mut scan = Scan::default();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = match (byte, after.first()) {
            (b'"' | b'\'', _) => behind_string(byte, after)?,
            (b'/', Some(b'*')) => behind_comment(&after[1..])?,
            (b'/', Some(b'/')) | (b'#', _) => behind_line(after),
            _ => after,
        };
        match byte {
            b'{' | b'[' | b'<' | b'}' | b']' | b'>' | b';' | b',' | b'=' | b'(' | b')' => scan.sign(byte)?,
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' => scan.words += 1,
            _ => {}
        }
    }
    scan.end()
}

/// What was seen of a text.
#[derive(Default)]
struct Scan {
    /// the signs that end the parts which are open, and how long the names before them are together
    open: Vec<(u8, usize)>,
    /// bytes of the words since the last sign
    words: usize,
    /// the most of them outside of all parts, where the package is named
    package: usize,
    /// how many names there are at most
    count: usize,
    /// their bytes without the package's
    bytes: usize,
}

impl Scan {
    fn sign(&mut self, sign: u8) -> Result<(), String> {
        let words = std::mem::take(&mut self.words);
        let names = self.open.last().map_or(0, |(_, names)| *names) + words;
        self.count += 1;
        self.bytes = self.bytes.saturating_add(names);
        if self.open.is_empty() && sign == b';' {
            self.package = self.package.max(words);
        }
        match sign {
            b'{' => self.open.push((b'}', names)),
            b'[' => self.open.push((b']', names)),
            b'<' => self.open.push((b'>', names)),
            b'}' | b']' | b'>' if self.open.pop().is_none_or(|(end, _)| end != sign) => {
                return Err(format!("a {:?} ends what it did not begin", char::from(sign)));
            }
            _ => {}
        }
        match self.open.len() > DEPTH_MAX {
            true => Err(format!("its parts lie more than {DEPTH_MAX} deep in each other")),
            false => Ok(()),
        }
    }

    fn end(self) -> Result<(), String> {
        let bytes = self.count.saturating_mul(self.package).saturating_add(self.bytes);
        match bytes > NAMES_BYTES_MAX {
            true => Err(format!("the full names in it have more than {} MiB together", NAMES_BYTES_MAX >> 20)),
            false => Ok(()),
        }
    }
}

fn behind_line(rest: &[u8]) -> &[u8] {
    rest.iter().position(|byte| *byte == b'\n').map_or(&[], |end| &rest[end..])
}

fn behind_comment(rest: &[u8]) -> Result<&[u8], String> {
    let end = rest.windows(2).position(|two| two == b"*/").ok_or("a comment in it has no end")?;
    // Also one that begins with the sign at which this one ends.
    match rest[..=end].windows(2).any(|two| two == b"/*") {
        true => Err("comments lie in each other".to_owned()),
        false => Ok(&rest[end + 2..]),
    }
}

fn behind_string(quote: u8, mut rest: &[u8]) -> Result<&[u8], String> {
    while let Some((&byte, after)) = rest.split_first() {
        rest = match byte {
            _ if byte == quote => return Ok(after),
            b'\n' => break,
            b'\\' => behind_escape(after).ok_or("a string in it has an escape that is none")?,
            _ => after,
        };
    }
    Err("a string in it has no end".to_owned())
}

fn behind_escape(rest: &[u8]) -> Option<&[u8]> {
    let (&kind, rest) = rest.split_first()?;
    let digits = match kind {
        b'x' | b'X' => 1,
        b'u' => 4,
        b'U' => 8,
        b'0'..=b'7' | b'a' | b'b' | b'f' | b'n' | b'r' | b't' | b'v' | b'?' | b'\\' | b'\'' | b'"' => 0,
        _ => return None,
    };
    let (digits, rest) = rest.split_at_checked(digits)?;
    digits.iter().all(u8::is_ascii_hexdigit).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        check(text).err().unwrap_or_default()
    }

    #[test]
    fn what_lies_too_deep_is_refused_whatever_hides_its_ends() {
        let deep = "its parts lie more than 200 deep in each other";
        let hidden = ["", "/*}*/", "//}\n", "#}\n", "\"}\"", "'\\'}'", "\"\\\"}\\x41}\"", "/***}**/", "/*\n **}*/"];
        for hidden in hidden {
            assert_eq!(refusal(&format!("message A {{ {hidden} ").repeat(201)), deep, "{hidden}");
            assert_eq!(refusal(&format!("message A {{ {hidden} }} ").repeat(1_000)), "", "{hidden}");
        }
        assert_eq!(refusal(&"option (a) = { b <".repeat(101)), deep);
        assert_eq!(refusal(&"// a < b, and c [\nmap<int32, int32> a = 1 [b = c]; ".repeat(1_000)), "");
    }

    #[test]
    fn where_the_parser_may_see_another_end_there_is_none() {
        let cases = [
            ("message A { > message B {", "a '>' ends what it did not begin"),
            ("}", "a '}' ends what it did not begin"),
            ("/* /* */", "comments lie in each other"),
            ("/*/*/", "comments lie in each other"),
            ("/*/", "a comment in it has no end"),
            ("\"a\n\"", "a string in it has no end"),
            ("'a\"", "a string in it has no end"),
            ("\"\\x\"", "a string in it has an escape that is none"),
            ("\"\\u12\"34\"", "a string in it has an escape that is none"),
            ("\"\\q\"", "a string in it has an escape that is none"),
            ("\"\\", "a string in it has an escape that is none"),
        ];
        for (text, expected) in cases {
            assert_eq!(refusal(text), expected, "{text}");
        }
    }

    #[test]
    fn full_names_that_would_fill_the_memory_are_refused() {
        let (long, fields) = ("a".repeat(100_000), "int32 a = 1; ".repeat(1_000));
        let many = "the full names in it have more than 64 MiB together";
        assert_eq!(refusal(&format!("message {long} {{ {fields} }}")), many);
        assert_eq!(refusal(&format!("message A {{ {fields} }} package {long};")), many);
        assert_eq!(refusal(&format!("message A {{ {fields} }} package a {};", ". /* */ a\n".repeat(50_000))), many);
        assert_eq!(refusal(&format!("package {}; message A {{ {fields} }}", &long[..1_000])), "");
    }
}
