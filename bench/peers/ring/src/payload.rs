//! What is in a message: 64-bit words that follow from its number, so that nobody can leave one out.

/// Fills a message.
#[inline]
pub fn write(words: &mut [u64], number: u64) {
    for (index, word) in words.iter_mut().enumerate() {
        *word = number + index as u64;
    }
}

/// Reads all of it.
#[inline]
pub fn read(words: &[u64]) -> u64 {
    std::hint::black_box(words.iter().fold(0, |sum, word| sum ^ word))
}
