//! "Did you mean": the nearest known word.

/// Below this Jaro-Winkler similarity a suggestion confuses more than it helps (found by trying typos of our own keys).
const SIMILARITY_MIN: f64 = 0.8;

/// `` did you mean `x`? `` for the candidate nearest to `word`, if any is near.
pub fn did_you_mean<S: AsRef<str>>(word: &str, candidates: impl IntoIterator<Item = S>) -> Option<String> {
    // Similarity is quadratic in the length; no name that long can be meant.
    if word.len() > 256 {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(word, candidate.as_ref()), candidate))
        .filter(|(similarity, _)| *similarity >= SIMILARITY_MIN)
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, candidate)| format!("did you mean `{}`?", candidate.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        let words = ["out_of_orderness", "event_time", "path"];
        assert_eq!(did_you_mean("outoforderness", words), Some("did you mean `out_of_orderness`?".to_owned()));
        assert_eq!(did_you_mean("pth", words), Some("did you mean `path`?".to_owned()));
        assert_eq!(did_you_mean("zebra", words), None);
    }
}
