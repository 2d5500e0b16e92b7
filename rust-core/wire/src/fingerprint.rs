//! FNV-1a, 64 bits: the hash that schemas and templates are compared by across processes.
//!
//! It tells mistakes apart, not attacks. Chosen because a stranger can write it from memory in any language.

const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// The FNV-1a hash of `bytes`.
pub(crate) fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(OFFSET_BASIS, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::fingerprint;

    #[test]
    fn the_published_test_vectors_of_fnv_1a_hold() {
        // http://www.isthe.com/chongo/tech/comp/fnv/ (draft-eastlake-fnv, appendix C)
        assert_eq!(fingerprint(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fingerprint(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fingerprint(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
