//! Questions about a descriptor that leave its position as it was.

use super::medium::{seekable, unopened};
use super::position::Position;
use super::probe::{Belief, Refusal, probe, reconsider};
use super::signals::{again, steadily};
use super::walk::Walk;
use super::{Kind, Section};
use crate::error::{Error, Operation, Result, Side};
use crate::filesystem;
use crate::sys::{self, Fd, Sys};
use crate::trace::Trail;

/// The section at `offset`, or at the file position. The position is kept.
#[inline(always)]
pub fn section_at(fd: Fd, offset: Option<u64>) -> Result<Section> {
    let file = seekable(fd).map_err(unopened)?;
    let position = Position::save(fd)?;
    let offset = offset.unwrap_or(position.saved);
    if offset >= file.end {
        return Ok(Section::end(offset));
    }
    if !file.map {
        return Ok(Section::new(Kind::Data, offset, file.end - offset));
    }
    match steadily(|| probe(fd, offset, file.end, false, || ())) {
        Ok(section)
            if Belief::Unasked.takes(section.kind) || filesystem::map_follows_cache(fd, offset) =>
        {
            position.restore()?;
            Ok(section)
        }
        Ok(hole) => {
            section_reconsidered(fd, offset, file.end, Ok(hole), Belief::Foreign, &position)
        }
        failure => section_reconsidered(fd, offset, file.end, failure, Belief::Unasked, &position),
    }
}

/// The rest of [`section_at`] where the first answer is not final.
#[cold]
fn section_reconsidered(
    fd: Fd,
    offset: u64,
    end: u64,
    first: Sys<Section>,
    mut belief: Belief,
    position: &Position,
) -> Result<Section> {
    // The query may write cached data back, and the thread could be cancelled there.
    let _cancellation = sys::Cancellation::disable();
    position.around(|| {
        let mut trail = Trail::default();
        let answer = again(|| reconsider(fd, offset, end, first, &mut belief, &mut trail))?;
        Ok(answer.unwrap_or(Section::new(Kind::Data, offset, end - offset)))
    })
}

/// Passes each section of the range to `each`, which returns whether to continue. Length 0 means to the end.
/// The position is kept.
pub fn map(fd: Fd, offset: u64, length: u64, mut each: impl FnMut(Section) -> bool) -> Result<()> {
    let file = seekable(fd).map_err(unopened)?;
    let end = match length {
        0 => file.end,
        _ => file.end.min(offset.saturating_add(length)),
    };
    let position = Position::save(fd)?;
    if !file.map {
        if offset < end {
            each(Section::new(Kind::Data, offset, end - offset));
        }
        return Ok(());
    }
    position.around(|| {
        let (mut walk, mut trail) = (Walk::new(fd, file.end), Trail::default());
        let mut at = offset;
        while at < end {
            let mut section = again(|| next(&mut walk, at, &mut trail))?;
            if section.kind == Kind::End {
                break;
            }
            section.length = section.length.min(end - at);
            at += section.length;
            if !each(section) {
                break;
            }
        }
        Ok(())
    })
}

/// The next section of a walk. Not in line: it is called at two places of [`again`].
#[inline(never)]
fn next(walk: &mut Walk, at: u64, trail: &mut Trail) -> Result<Section> {
    walk.at(at, trail)
}

/// Whether the file system can be asked for the map of this file. The position is kept.
pub fn holes_supported(fd: Fd) -> Result<bool> {
    let file = seekable(fd).map_err(unopened)?;
    let position = Position::save(fd)?;
    if !file.map {
        return Ok(false);
    }
    // Offset 0 is right for an empty file too: it answers ENXIO if there is a map.
    position.around(|| match steadily(|| sys::seek_hole(fd, 0)) {
        Ok(_) | Err(libc::ENXIO) => Ok(true),
        Err(errno) => match Refusal::of_file(fd, errno) {
            Refusal::NoMap(_) => Ok(false),
            Refusal::Failure(errno) => Err(Error::at(Operation::Map, Side::Source, 0, errno)),
            Refusal::Other(_) => Ok(sys::sync_data(fd).is_ok()
                && matches!(steadily(|| sys::seek_hole(fd, 0)), Ok(_) | Err(libc::ENXIO))),
        },
    })
}
