//! What the fuzz targets share: stores of a hostile process, made from the fuzzer's bytes.
//!
//! A target starts from valid memory and overwrites parts of it, since bytes out of nowhere hardly ever get past a
//! magic number or a hash.

/// One store: where and what.
pub struct Store<'a> {
    /// Offset into the memory, taken modulo its length by whoever applies it.
    pub offset: usize,
    /// Bytes to write.
    pub bytes: &'a [u8],
}

/// Reads stores from the fuzzer's input: offset (3 bytes), length (1 byte, up to 16), bytes.
pub fn stores(input: &[u8]) -> impl Iterator<Item = Store<'_>> {
    let mut rest = input;
    std::iter::from_fn(move || {
        let (head, tail) = rest.split_first_chunk::<4>()?;
        let offset = u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize;
        let (bytes, tail) = tail.split_at(tail.len().min(usize::from(head[3] % 16) + 1));
        rest = tail;
        Some(Store { offset, bytes })
    })
}

/// Applies all stores to `memory`.
pub fn scribble(memory: &mut [u8], input: &[u8]) {
    for store in stores(input) {
        let start = store.offset % memory.len();
        let length = store.bytes.len().min(memory.len() - start);
        memory[start..start + length].copy_from_slice(&store.bytes[..length]);
    }
}
