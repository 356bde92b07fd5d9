//! Is this block all zeros?

/// Whether every byte is zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    // The compiler turns each piece into vector code; the loop ends at the first that is not zero. One stream
    // of loads is faster than memcmp(3) of a block with itself, which needs two.
    let mut pieces = bytes.chunks_exact(256);
    pieces.by_ref().all(|piece| piece.iter().fold(0, |all, byte| all | byte) == 0)
        && pieces.remainder().iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_anywhere_is_found() {
        for length in [1, 2, 255, 256, 257, 1000, 4096] {
            let mut bytes = vec![0; length];
            assert!(is_zero(&bytes), "{length}");
            for at in 0..length {
                bytes[at] = 1;
                assert!(!is_zero(&bytes), "{at} of {length}");
                bytes[at] = 0;
            }
        }
        assert!(is_zero(&[]));
    }
}
