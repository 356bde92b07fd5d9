//! The digest of a stream: CRC-64/XZ, in which a run of zeros costs its logarithm.
//!
//! It finds accidental damage. It is no protection against somebody who makes damage on purpose.

/// x^64 + x^62 + ... (ECMA-182), lowest power in the highest bit.
const POLYNOMIAL: u64 = 0xc96c_5795_d787_0f42;

/// A polynomial times x.
const fn times_x(value: u64) -> u64 {
    (value >> 1) ^ (POLYNOMIAL & (value & 1).wrapping_neg())
}

/// A polynomial times another.
const fn times(a: u64, mut b: u64) -> u64 {
    let mut product = 0;
    let mut bit = 1 << 63;
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        b = times_x(b);
        bit >>= 1;
    }
    product
}

/// By how many zero bytes, 2 to this power, a register is moved on by a factor.
static ZEROS: [u64; 64] = zeros();

const fn zeros() -> [u64; 64] {
    // x to the power of 8: one zero byte.
    let mut factor = 1 << (63 - 8);
    let mut factors = [0; 64];
    let mut power = 0;
    while power < 64 {
        factors[power] = factor;
        factor = times(factor, factor);
        power += 1;
    }
    factors
}

/// The digest of what it was shown so far, in order and from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Digest(u64::MAX)
    }
}

impl Digest {
    /// One that goes on from where another had this value.
    #[must_use]
    pub fn resumed(value: u64) -> Self {
        Digest(!value)
    }

    /// Its value.
    #[must_use]
    pub fn value(self) -> u64 {
        !self.0
    }

    /// Takes in data.
    pub fn data(&mut self, bytes: &[u8]) {
        // The register that a digest of these bytes alone ends with, and what was before them
        // moved on by as many zeros: the sum is the register of both.
        let mut alone = crc64fast::Digest::new();
        alone.write(bytes);
        self.0 = !alone.sum64() ^ moved_on(!self.0, bytes.len() as u64);
    }

    /// Takes in a hole: as many zero bytes.
    pub fn hole(&mut self, length: u64) {
        self.0 = moved_on(self.0, length);
    }
}

/// A register behind so many zero bytes.
fn moved_on(mut register: u64, mut length: u64) -> u64 {
    let mut power = 0;
    while register != 0 && length != 0 {
        if length & 1 != 0 {
            register = times(ZEROS[power], register);
        }
        length >>= 1;
        power += 1;
    }
    register
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> u64 {
        let mut digest = Digest::default();
        digest.data(bytes);
        digest.value()
    }

    #[test]
    fn it_is_the_crc_64_of_xz() {
        assert_eq!(of(b"123456789"), 0x995d_c9bb_df19_39fa);
        assert_eq!(of(b""), 0);
    }

    #[test]
    fn pieces_and_resumption_make_no_difference() {
        let bytes: Vec<u8> = (0..1000u32).map(|at| (at * 7 % 251) as u8).collect();
        for cut in 0..bytes.len() {
            let mut digest = Digest::default();
            digest.data(&bytes[..cut]);
            let mut digest = Digest::resumed(digest.value());
            digest.data(&bytes[cut..]);
            assert_eq!(digest.value(), of(&bytes), "{cut}");
        }
    }

    #[test]
    fn a_hole_is_its_zeros() {
        for length in [1, 2, 15, 16, 17, 4096, 100_001] {
            let mut sparse = Digest::default();
            sparse.data(b"before");
            sparse.hole(length);
            sparse.data(b"after");
            let mut dense = b"before".to_vec();
            dense.resize(6 + length as usize, 0);
            dense.extend_from_slice(b"after");
            assert_eq!(sparse.value(), of(&dense), "{length}");
        }
    }

    #[test]
    fn holes_of_any_length_add_up() {
        let mut whole = Digest::default();
        whole.hole(u64::MAX);
        let mut parts = Digest::default();
        parts.hole(u64::MAX - (1 << 50));
        parts.hole((1 << 50) - 1);
        parts.hole(1);
        assert_eq!(whole, parts);
        assert_ne!(whole.value(), Digest::default().value());
    }
}
