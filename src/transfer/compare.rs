//! Compares the part of a stream that a resuming receiver holds.
//!
//! The part is read from the source and passed to the sink, which computes its digest and sends nothing. If
//! the digests differ, everything is sent from the start.

use super::pool::Pool;
use super::turn::{STEP_COST, Turn};
use crate::end::Next;
use crate::error::{Error, Operation, Result, Side};

/// The result of a step.
pub(super) enum Compared {
    /// Work of about this many bytes. More is to be compared.
    Worked(u64),
    /// The sink holds what the source has.
    Same,
    /// The sink holds something else. The source is at its start again.
    Differs,
}

/// Passes one piece of the next `left` bytes to the sink, or asks for the result when none are left.
pub(super) fn step(left: u64, pool: &mut Pool, turn: &mut Turn) -> Result<Compared> {
    let offset = turn.meter.position();
    if turn.sink.held().is_none() {
        return Err(Error::Internal);
    }
    if left == 0 {
        return settle(turn);
    }
    let room = pool.size().min(usize::try_from(left).unwrap_or(usize::MAX));
    let next = turn.source.next(pool.room(room));
    pool.asked(&next, room, turn);
    let (length, cost) = match next? {
        Next::Data(count) => {
            let count = turn.came(count, room)?;
            pool.filled(count);
            if let Some(held) = turn.sink.held() {
                held.check(pool.pending());
            }
            (count as u64, count as u64)
        }
        Next::Hole(length) => {
            let length = length.min(left);
            turn.source.consume(length);
            if let Some(held) = turn.sink.held() {
                held.check_hole(length);
            }
            (length, STEP_COST)
        }
        Next::Keep(_) => {
            return Err(Error::Because {
                operation: Operation::Keep,
                side: Side::Source,
                offset,
                errno: libc::EOPNOTSUPP,
                why: "a stream with kept sections cannot be resumed",
            });
        }
        Next::End => return Err(Error::EndedEarly { offset, expected: offset + left }),
    };
    turn.meter.compared(length);
    // Reading counts as progress, though no data moves.
    turn.progressed();
    Ok(Compared::Worked(cost))
}

fn settle(turn: &mut Turn) -> Result<Compared> {
    let agrees = match turn.sink.held() {
        Some(held) => held.agrees()?,
        None => true,
    };
    if agrees {
        return Ok(Compared::Same);
    }
    match turn.source.rewind() {
        Some(source) => source.to_start()?,
        None => return Err(Error::nowhere(Operation::Seek, Side::Source, libc::ESPIPE)),
    }
    Ok(Compared::Differs)
}
