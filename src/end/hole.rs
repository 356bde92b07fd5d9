//! How a sink has made a hole.

/// How a hole was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum HoleWay {
    /// Handed on, as a hole, to a peer or to the caller's functions.
    Passed = 1,
    /// Beyond the end of a file, whose size grows over it.
    Extended = 2,
    /// The caller has promised that the target reads zero there.
    KnownZero = 3,
    /// fallocate(2) with PUNCH_HOLE.
    Punched = 4,
    /// fallocate(2) with ZERO_RANGE.
    ZeroRange = 5,
    /// BLKZEROOUT of a block device.
    ZeroOut = 6,
    /// Zeros were written.
    Written = 7,
}

impl HoleWay {
    /// All of them.
    pub const ALL: [HoleWay; 7] = [
        HoleWay::Passed,
        HoleWay::Extended,
        HoleWay::KnownZero,
        HoleWay::Punched,
        HoleWay::ZeroRange,
        HoleWay::ZeroOut,
        HoleWay::Written,
    ];

    /// Its place in [`HoleWay::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize - 1
    }
}

/// A hole, or the first part of one, that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// Its length, at least one byte. One call makes one bounded step.
    pub length: u64,
    /// How.
    pub way: HoleWay,
}
