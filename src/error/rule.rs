//! Rules for numbers that callbacks, peers and ends give.

use super::shown::Flags;
use super::{Error, Operation, Side};
use std::fmt;

/// A rule for one number.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// The number.
    pub name: &'static str,
    /// The values allowed.
    pub bound: Bound,
}

/// The values that a rule allows, with a number that is known only where the rule is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// That number.
    Exactly,
    /// At most that number.
    Most,
    /// At least that number.
    Least,
    /// 0, or at least that number.
    ZeroOrLeast,
    /// From 1 to that number.
    FromOne,
    /// Some of those bits, as flags of the interface.
    Flags,
    /// As these words list them.
    Only(&'static str),
}

impl Rule {
    /// A rule for this number.
    #[must_use]
    pub const fn new(name: &'static str, bound: Bound) -> Self {
        Rule { name, bound }
    }

    /// The error of a number that breaks it.
    #[cold]
    #[must_use]
    pub fn broken(
        &'static self,
        (operation, side, offset): (Operation, Side, u64),
        errno: i32,
        given: i64,
        bound: u64,
    ) -> Error {
        Error::Number { operation, side, offset, errno, rule: self, given, bound }
    }
}

/// The values that a rule allows, as they are shown.
pub(super) struct Kept<'a>(pub(super) &'a Rule, pub(super) u64);

impl fmt::Display for Kept<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Kept(rule, bound) = *self;
        match rule.bound {
            Bound::Exactly => bound.fmt(f),
            Bound::Most => write!(f, "at most {bound}"),
            Bound::Least => write!(f, "at least {bound}"),
            Bound::ZeroOrLeast => write!(f, "0 or at least {bound}"),
            Bound::FromOne => write!(f, "from 1 to {bound}"),
            Bound::Flags if bound == 0 => f.write_str("0"),
            Bound::Flags => write!(f, "0 or any of {}", Flags(bound)),
            Bound::Only(words) => f.write_str(words),
        }
    }
}
