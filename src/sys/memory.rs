//! Memory of which parts have one owner each, so that a part can be handed to the kernel or to a caller's
//! functions and stays where it is until it is handed back.

use super::Fd;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::Arc;

/// The address of each slab is a multiple of this: no device asks for more.
const ALIGNMENT: usize = 4096;

/// Memory that is freed with the last slab of it.
#[derive(Debug)]
struct Region {
    /// The memory that the allocator returned for `layout`.
    allocated: NonNull<u8>,
    layout: Layout,
    /// The first aligned byte, and how many there are from it on.
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: a region is only an allocation. Its content is reached through slabs, of which each has its own
// part.
unsafe impl Send for Region {}
// SAFETY: as above; a shared region can only be dropped.
unsafe impl Sync for Region {}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and the last slab was dropped.
        unsafe { dealloc(self.allocated.as_ptr(), self.layout) };
    }
}

impl Region {
    /// Memory of zeros. Its pages cost nothing until they are used: of a large block that asks for no
    /// alignment, calloc(3) gets them from the kernel, while it would fill an aligned one itself.
    fn new(length: usize) -> Option<Self> {
        let layout = Layout::array::<u8>(length.checked_add(ALIGNMENT)?).ok()?;
        // SAFETY: the layout has a size that is not 0.
        let allocated = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let aside = allocated.addr().get().wrapping_neg() % ALIGNMENT;
        // SAFETY: less than the alignment, by which the block is longer than `length`.
        let start = unsafe { allocated.add(aside) };
        Some(Region { allocated, layout, start, length })
    }
}

/// A part of a region, with no other reference to it.
#[derive(Debug)]
pub struct Slab {
    region: Arc<Region>,
    from: usize,
    length: usize,
}

impl Slab {
    /// Slabs of the same length that lie side by side, all zero; `None` if there is no memory. The length
    /// is rounded up to whole pages.
    #[must_use]
    pub fn many(count: usize, length: usize) -> Option<Vec<Slab>> {
        let [slabs] = Slab::of_lengths([(count, length)])?;
        Some(slabs)
    }

    /// As [`Slab::many`], of several lengths in one region. Each kind is a number of slabs and their length.
    #[must_use]
    pub fn of_lengths<const N: usize>(kinds: [(usize, usize); N]) -> Option<[Vec<Slab>; N]> {
        let whole = |length: usize| length.checked_next_multiple_of(ALIGNMENT);
        let mut total = 0_usize;
        for (count, length) in kinds {
            total = total.checked_add(whole(length)?.max(ALIGNMENT).checked_mul(count)?)?;
        }
        let region = Arc::new(Region::new(total.max(ALIGNMENT))?);
        let (mut slabs, mut from) = ([const { Vec::new() }; N], 0);
        for (slabs, (count, length)) in slabs.iter_mut().zip(kinds) {
            let length = whole(length)?.max(ALIGNMENT);
            slabs.try_reserve_exact(count).ok()?;
            for _ in 0..count {
                slabs.push(Slab { region: Arc::clone(&region), from, length });
                from += length;
            }
        }
        Some(slabs)
    }

    /// The address of its first byte. It does not change.
    #[must_use]
    pub fn start(&self) -> *mut u8 {
        // SAFETY: within the region.
        unsafe { self.region.start.as_ptr().add(self.from) }
    }

    /// The address and the length of the whole region that it is a part of.
    #[must_use]
    pub fn region(&self) -> (*mut u8, usize) {
        (self.region.start.as_ptr(), self.region.length)
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: initialised by alloc_zeroed, within the region, and this slab alone has them.
        unsafe { std::slice::from_raw_parts(self.start(), self.length) }
    }

    /// Its bytes, to be filled.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.length) }
    }
}

/// A read into, or a write from, a part of a slab.
#[derive(Debug)]
pub struct Io {
    /// The number that whoever asks knows it by.
    pub token: usize,
    /// Write from the slab. If not, read into it.
    pub write: bool,
    /// The file.
    pub fd: Fd,
    /// The offset in the file.
    pub offset: u64,
    /// The memory.
    pub slab: Slab,
    /// Where in the memory the bytes begin.
    pub start: usize,
    /// How many there are.
    pub length: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages of a region that are in memory.
    fn pages_in_memory(slab: &Slab) -> usize {
        let (start, length) = slab.region();
        let mut pages = vec![0; length / ALIGNMENT];
        // SAFETY: the region is aligned and mapped, and there is a byte for each of its pages.
        let r = unsafe { libc::mincore(start.cast(), length, pages.as_mut_ptr()) };
        assert_eq!(r, 0);
        pages.iter().filter(|page| **page & 1 != 0).count()
    }

    #[test]
    fn slabs_that_are_not_used_take_no_memory() {
        let mut slabs = Slab::many(64, 1 << 20).unwrap();
        assert!(pages_in_memory(&slabs[0]) < 16, "{}", pages_in_memory(&slabs[0]));
        slabs[63].bytes_mut().fill(1);
        assert!(pages_in_memory(&slabs[0]) >= 256);
    }

    #[test]
    fn slabs_are_aligned_and_do_not_overlap() {
        let mut slabs = Slab::many(3, 5000).unwrap();
        for (nth, slab) in slabs.iter_mut().enumerate() {
            assert_eq!((slab.bytes().len(), slab.start().addr() % ALIGNMENT), (8192, 0));
            assert!(slab.bytes().iter().all(|byte| *byte == 0));
            slab.bytes_mut().fill(nth as u8 + 1);
        }
        assert_eq!(slabs[0].region(), slabs[2].region());
        let last = slabs.pop().unwrap();
        drop(slabs);
        assert!(last.bytes().iter().all(|byte| *byte == 3));
        assert!(Slab::many(2, usize::MAX / 2).is_none());
        let [mut long, mut short] = Slab::of_lengths([(2, 8192), (3, 100)]).unwrap();
        assert_eq!(long[1].start().addr() + 8192, short[0].start().addr());
        assert_eq!((long.len(), short.len(), short[2].bytes().len()), (2, 3, 4096));
        for (nth, slab) in long.iter_mut().chain(&mut short).enumerate() {
            assert_eq!(slab.region().1, 2 * 8192 + 3 * 4096);
            assert!(slab.bytes().iter().all(|byte| *byte == 0));
            slab.bytes_mut().fill(nth as u8 + 1);
        }
    }
}
