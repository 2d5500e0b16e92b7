//! Subjects, and patterns that stand for several of them.

/// Whether it is a subject, or one that stands for several: `*` for one part between dots, `>` for all at the end.
pub fn is_subject(subject: &str) -> bool {
    let parts: Vec<&str> = subject.split('.').collect();
    let is_part = |(index, part): (usize, &&str)| match *part {
        "*" => true,
        ">" => index + 1 == parts.len(),
        part => !part.is_empty() && !part.contains(|c: char| c == '*' || c == '>' || c.is_whitespace()),
    };
    parts.iter().enumerate().all(is_part)
}

/// Whether a message can be of both. (A subject without `*` and `>` stands for itself.)
pub fn meet(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.split('.'), other.split('.'));
    loop {
        match (one.next(), other.next()) {
            (Some(">"), Some(_)) | (Some(_), Some(">")) | (None, None) => return true,
            (Some(part), Some(wanted)) if part == wanted || part == "*" || wanted == "*" => {}
            _ => return false,
        }
    }
}
