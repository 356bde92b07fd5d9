//! The writer as a sink: it turns sections into frames.

use super::{PAYLOAD, Writer, unfit};
use crate::end::{
    Attempt, Extent, Fetch, Held, HoleWay, Lend, Made, Peer, Plan, Sink, SinkInfo, SinkWays,
};
use crate::error::{Operation, Result};
use crate::wire::lasting::Lasting;
use crate::wire::proto::frame::HEADER;
use crate::wire::proto::sender::Stage;
use std::time::Instant;

/// Data up to this is gathered; longer data goes to the transport without being copied.
const SMALL: usize = 16 << 10;

impl Writer {
    fn refuse_beyond(&self, operation: Operation, length: u64) -> Result<()> {
        self.machine.check(length).map_err(|refused| self.because(operation, refused))
    }

    /// Sends data of the current frame that is not in the source's file any more.
    fn write_owed(&mut self, buffer: &[u8]) -> Result<usize> {
        let operation = Operation::Write;
        let most = (self.machine.owed() as usize).min(PAYLOAD);
        let payload = &buffer[..buffer.len().min(most)];
        self.ready(operation, payload.len())?;
        let link = &mut self.link;
        let sent = self.machine.owed_through(payload, |queued, rest| match link.steady() {
            // A copy is queued, because the caller may not come back with the same bytes.
            true => Ok(0),
            false => link.write(queued, rest),
        });
        let sent = self.agreed(operation, sent)?;
        self.sent(operation, sent)?;
        Ok(payload.len())
    }

    fn may_fetch(&mut self) -> bool {
        let two_way = self.machine.two_way();
        if self.machine.sees_payload() {
            return false;
        }
        // One-way, no answer reports that the file may change again.
        self.link.plain_output().is_some_and(|output| two_way || output.copies())
    }
}

impl Sink for Writer {
    fn open(&mut self, plan: &Plan) -> Result<SinkInfo> {
        let held = self.lasting(|writer| {
            let announced = writer.machine.announce(plan.total, plan.keeps);
            announced.map_err(|refused| unfit(refused, 0))?;
            writer.greet()?;
            Ok(match writer.machine.stage() {
                Stage::Comparing(offer) => offer.length,
                _ => 0,
            })
        })?;
        let durable = self.machine.two_way();
        Ok(SinkInfo { makes_holes: true, keeps: true, held, durable })
    }

    fn write(&mut self, buffer: &[u8]) -> Result<usize> {
        self.lasting(|writer| {
            let operation = Operation::Write;
            writer.refuse_beyond(operation, 1)?;
            if writer.machine.owed() > 0 {
                return writer.write_owed(buffer);
            }
            writer.ready(operation, HEADER + buffer.len().min(PAYLOAD))?;
            let most = writer.machine.fits(buffer.len() as u64) as usize;
            let payload = &buffer[..most.min(PAYLOAD)];
            if payload.len() <= SMALL || writer.link.steady() {
                let taken = writer.machine.data(payload);
                writer.agreed(operation, taken)?;
            } else {
                let link = &mut writer.link;
                let sent =
                    writer.machine.data_through(payload, |queued, rest| link.write(queued, rest));
                let sent = writer.agreed(operation, sent)?;
                writer.sent(operation, sent)?;
            }
            Ok(payload.len())
        })
    }

    fn hole(&mut self, length: u64) -> Result<Made> {
        self.lasting(|writer| {
            let operation = Operation::Hole;
            writer.refuse_beyond(operation, length)?;
            let owed = writer.machine.owed();
            if owed > 0 {
                // A range that was data when its frame began has become a hole.
                let count = length.min(owed.into()).min(SMALL as u64);
                writer.ready(operation, count as usize)?;
                let made = writer.machine.owed_zeros(count as u32);
                writer.agreed(operation, made)?;
                return Ok(Made { length: count, way: HoleWay::Written });
            }
            writer.ready(operation, HEADER)?;
            let made = writer.machine.hole(length);
            writer.agreed(operation, made)?;
            Ok(Made { length, way: HoleWay::Passed })
        })
    }

    fn keep(&mut self, length: u64) -> Result<u64> {
        self.lasting(|writer| {
            let operation = Operation::Keep;
            writer.refuse_beyond(operation, length)?;
            writer.ready(operation, HEADER)?;
            let kept = writer.machine.keep(length);
            writer.agreed(operation, kept)?;
            Ok(length)
        })
    }

    fn durable(&self) -> Option<u64> {
        self.machine.durable()
    }
}

impl SinkWays for Writer {
    fn fetch(&mut self) -> Option<&mut dyn Fetch> {
        if self.may_fetch() { Some(self) } else { None }
    }

    fn lend(&mut self) -> Option<&mut dyn Lend> {
        Some(self)
    }

    fn held(&mut self) -> Option<&mut dyn Held> {
        Some(self)
    }
}

impl Fetch for Writer {
    fn fetch_extent(&mut self, extent: &Extent) -> Result<Attempt> {
        self.lasting(|writer| {
            let operation = Operation::Write;
            writer.refuse_beyond(operation, 1)?;
            writer.ready(operation, HEADER)?;
            if !writer.may_fetch() {
                return Ok(Attempt::Declined(None));
            }
            if writer.machine.owed() == 0 {
                let able =
                    writer.link.plain_output().is_some_and(|output| output.sends_from_files());
                if !able {
                    return Ok(Attempt::Declined(None));
                }
                let length = writer.machine.fits(extent.length);
                let owed = writer.machine.owe(length);
                writer.agreed(operation, owed)?;
            }
            let length = extent.length.min(writer.machine.owed().into());
            writer.flush_all(operation)?;
            let Some(output) = writer.link.plain_output() else {
                return Ok(Attempt::Declined(None));
            };
            let result = output.send_from(&Extent { length, ..*extent });
            let attempt = writer.sent(operation, result)?;
            if let Attempt::Moved(count) = attempt {
                let passed = writer.machine.payload_passed(count as u32);
                writer.agreed(operation, passed)?;
            }
            Ok(attempt)
        })
    }
}

impl Lend for Writer {
    fn room(&mut self) -> Result<Option<&mut [u8]>> {
        let most = self.lasting(|writer| {
            if writer.machine.owed() > 0 {
                return Ok(0);
            }
            writer.ready(Operation::Write, HEADER + PAYLOAD)?;
            // 0 at the announced length: it is not known yet whether more data comes.
            Ok(writer.machine.fits(PAYLOAD as u64) as usize)
        })?;
        Ok(if most > 0 { self.machine.lend(most) } else { None })
    }

    fn committed(&mut self, count: usize) {
        self.machine.placed(count);
    }
}

impl Held for Writer {
    fn check(&mut self, buffer: &[u8]) {
        self.machine.compare(buffer);
        // A receiver that waits for a long comparison is sent a sign of life. The first frame reports a failure.
        let _ = self.flush(Instant::now());
    }

    fn check_hole(&mut self, length: u64) {
        self.machine.compare_hole(length);
    }

    fn agrees(&mut self) -> Result<bool> {
        self.lasting(|writer| {
            if !matches!(writer.machine.stage(), Stage::Comparing(_)) {
                return Ok(true);
            }
            writer.flush_all(Operation::Open)?;
            let same = writer.machine.agree();
            let same = writer.agreed(Operation::Open, same)?;
            writer.heard = writer.machine.at();
            Ok(same)
        })
    }
}
