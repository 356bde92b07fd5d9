//! From HELLO to the first frame of the stream: features, limits, and the offer to resume.

use super::{Receiver, Stage};
use crate::digest::{Digest, Hash, LENGTH};
use crate::wire::proto::body::{
    ANSWERS, Accept, CHECKSUM, DIGEST, Hello, KEEP, OPTIONAL, RESTART, RESUME, Reason,
};
use crate::wire::proto::codec::{UNKNOWN, VERSION};
use crate::wire::proto::frame::{Header, Kind};
use crate::wire::proto::sequence::{Limits, Sequence};
use crate::wire::proto::{MISUSED, Refused, UNEXPECTED, refused};

impl Receiver {
    // Called once for each conversation, with a large stack frame that other frames need not carry.
    #[inline(never)]
    pub(super) fn greet(&mut self, body: &[u8]) -> std::result::Result<(), Refused> {
        let hello = Hello::parse(body)?;
        self.hello = Some(hello);
        let two_way = hello.required & ANSWERS != 0;
        if two_way && !self.config.answers {
            let why = "the sender waits for answers, but nothing can be sent back";
            return Err(refused(why, libc::ENOTCONN));
        }
        // From here on a refusal is answered.
        self.answers = two_way;
        hello.check()?;
        self.check_keep(&hello)?;
        let limits = Limits { size: self.config.max_size, payload: self.config.max_payload };
        let sequence = Sequence::new(&hello, limits)?;
        let features = self.choose(&hello)?;
        let (offer, reason) = self.offer(&hello, features)?;
        self.features = features;
        self.digest = (features & DIGEST != 0).then(Digest::default);
        self.sequence = Some(sequence);
        match offer {
            Some(held) => self.stage = Stage::Proving(held),
            None => self.answer(&hello, reason, 0, &[0; LENGTH]),
        }
        Ok(())
    }

    fn check_keep(&self, hello: &Hello) -> std::result::Result<(), Refused> {
        if hello.required & KEEP == 0 {
            return Ok(());
        }
        if !self.config.keep {
            let why = "the stream has kept sections, which the receiver does not accept";
            return Err(refused(why, libc::EOPNOTSUPP));
        }
        if self.config.base != [0; 32] && self.config.base != hello.base {
            return Err(refused("the base of the stream is not that of the target", libc::ESTALE));
        }
        Ok(())
    }

    /// The features to be in force.
    fn choose(&self, hello: &Hello) -> std::result::Result<u64, Refused> {
        let mut features = hello.required;
        if self.answers {
            let wanted = if self.config.checksum { CHECKSUM } else { 0 }
                | if self.config.digest { DIGEST } else { 0 }
                | if self.config.held.is_some() { RESUME | DIGEST } else { 0 };
            features |= hello.optional & wanted & OPTIONAL;
        }
        for (wanted, feature, why) in [
            (
                self.config.checksum,
                CHECKSUM,
                "the sender sends no checksums, which the receiver requires",
            ),
            (self.config.digest, DIGEST, "the sender sends no digest, which the receiver requires"),
        ] {
            if wanted && features & feature == 0 {
                return Err(refused(why, libc::EOPNOTSUPP));
            }
        }
        Ok(features)
    }

    /// The length to offer, or the reason for no offer.
    fn offer(
        &self,
        hello: &Hello,
        features: u64,
    ) -> std::result::Result<(Option<u64>, Reason), Refused> {
        let Some(held) = self.config.held else { return Ok((None, Reason::None)) };
        let differs = |held: &[u8], sent: &[u8]| held.iter().any(|byte| *byte != 0) && held != sent;
        let (reason, why, errno) = if differs(&held.transfer_id, &hello.transfer_id)
            || differs(&held.identity, &hello.identity)
            || hello.length != UNKNOWN && held.length > hello.length
        {
            (
                Reason::Identity,
                "the identity, transfer id or length of the source is not that of the held bytes",
                libc::ESTALE,
            )
        } else if features & (RESUME | DIGEST) != RESUME | DIGEST {
            (Reason::Unable, "the sender cannot resume", libc::EOPNOTSUPP)
        } else {
            return Ok((Some(held.length), Reason::None));
        };
        if self.config.restart { Ok((None, reason)) } else { Err(refused(why, errno)) }
    }

    /// Answers HELLO, two-way.
    fn answer(&mut self, hello: &Hello, reason: Reason, offset: u64, digest: &Hash) {
        self.stage = if offset > 0 { Stage::Offered(offset) } else { Stage::Open };
        if !self.answers {
            return;
        }
        let accept = Accept {
            version: hello.version.min(VERSION),
            reason,
            max_payload: self.config.max_payload,
            features: self.features,
            resume_offset: offset,
            resume_digest: *digest,
            flags: if self.config.restart { RESTART } else { 0 },
        };
        self.push_with_body(Kind::Accept, 0, &accept.encode());
    }

    /// The digest of the held bytes, which [`Stage::Proving`] asked for: makes the offer.
    pub fn proven(&mut self, digest: Digest) -> std::result::Result<(), Refused> {
        match (self.stage, self.hello) {
            (Stage::Proving(held), Some(hello)) if digest.offset() == held => {
                if let Some(sequence) = &mut self.sequence {
                    sequence.resume(held);
                }
                self.answer(&hello, Reason::None, held, &digest.root());
                self.digest = Some(digest);
                Ok(())
            }
            _ => Err(MISUSED),
        }
    }

    /// The held bytes cannot be read back. A receiver that may restart receives everything.
    pub fn unproven(&mut self) -> std::result::Result<(), Refused> {
        match (self.stage, self.hello) {
            (Stage::Proving(_), Some(hello)) if self.config.restart => {
                self.answer(&hello, Reason::Content, 0, &[0; LENGTH]);
                Ok(())
            }
            (Stage::Proving(_), _) => {
                Err(refused("fewer bytes are held than resume_offset", libc::ENODATA))
            }
            _ => Err(MISUSED),
        }
    }

    #[inline(never)]
    pub(super) fn begin(&mut self, header: &Header, held: u64) -> std::result::Result<(), Refused> {
        let reason = Reason::of_begin(header.value)?;
        match (header.offset, reason) {
            (offset, Reason::None) if offset == held => self.at = held,
            (_, Reason::None) => return Err(UNEXPECTED),
            (0, _) if self.config.restart => {
                if let Some(sequence) = &mut self.sequence {
                    sequence.resume(0);
                }
                self.digest = Some(Digest::default());
            }
            (0, _) => return Err(refused("the held bytes differ from the source", libc::ESTALE)),
            _ => return Err(UNEXPECTED),
        }
        self.stage = Stage::Open;
        Ok(())
    }
}
