//! The known name that a wrong one was probably meant to be.

/// Below this Jaro-Winkler similarity a suggestion confuses more than it helps.
const SIMILARITY_MIN: f64 = 0.75;

/// The candidate nearest to `name`, if any is near.
pub(crate) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = candidates.map(|candidate| (strsim::jaro_winkler(candidate, name), candidate));
    let near = scored.filter(|(similarity, _)| *similarity > SIMILARITY_MIN);
    near.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, candidate)| candidate)
}
