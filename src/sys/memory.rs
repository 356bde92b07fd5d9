//! Memory of which parts have one owner each, so that a part can be handed to the kernel or to a caller's
//! functions and stays where it is until it is handed back.

use super::{Arc, Call, Fd, call};
use std::ptr::{NonNull, null_mut};

/// The address of each slab is a multiple of this: no device asks for more.
const ALIGNMENT: usize = 4096;

/// The size of a huge page on most machines. Where it is another, the advice has no effect.
const HUGE: usize = 2 << 20;

/// The pages that memory is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pages {
    /// Those of the machine.
    Small,
    /// Huge ones, if the region is large enough and the kernel has some. To pin them and to describe them to a disk
    /// costs less, and a disk takes more requests at once if each is a short list of addresses.
    Huge,
}

/// Memory that is unmapped with the last slab of it.
///
/// It has mappings of its own, not those of the allocator, so that an advice to the kernel does not outlive it.
#[derive(Debug)]
struct Region {
    /// The mapping, and its length.
    mapped: NonNull<u8>,
    size: usize,
    /// The first aligned byte, and how many there are from it on.
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: a region is only a mapping. Its content is reached through slabs, of which each has its own
// part.
unsafe impl Send for Region {}
// SAFETY: as above; a shared region can only be dropped.
unsafe impl Sync for Region {}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: mapped with this length, and the last slab was dropped. It cannot fail for a whole mapping.
        unsafe { libc::munmap(self.mapped.as_ptr().cast(), self.size) };
    }
}

impl Region {
    /// Memory of zeros. Its pages cost nothing until they are used.
    fn new(length: usize, pages: Pages) -> Option<Self> {
        if pages == Pages::Small || length < HUGE {
            return Region::of(length, length, ALIGNMENT);
        }
        let whole = length.checked_next_multiple_of(HUGE)?;
        let region = Region::of(length, whole.checked_add(HUGE)?, HUGE)?;
        let start = region.start.as_ptr().cast();
        // SAFETY: within the mapping, which is longer than `whole` by what may lie before the start.
        let advise = |_| unsafe { libc::madvise(start, whole, libc::MADV_HUGEPAGE) } as isize;
        // Without huge pages everything works as well.
        let _ = call(Call::Madvise, 0, advise);
        Some(region)
    }

    /// Maps `size` bytes. From the first address in them that is a multiple of `alignment`, there are `length`.
    fn of(length: usize, size: usize, alignment: usize) -> Option<Self> {
        // Offsets of pointers are signed.
        isize::try_from(size).ok()?;
        let (access, kind) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let mut mapped = libc::MAP_FAILED;
        let map = |_| {
            // SAFETY: a new mapping, which no other code knows.
            mapped = unsafe { libc::mmap(null_mut(), size, access, kind, -1, 0) };
            if mapped == libc::MAP_FAILED { -1 } else { 0 }
        };
        call(Call::Mmap, 0, map).ok()?;
        let mapped = NonNull::new(mapped.cast::<u8>())?;
        let aside = mapped.addr().get().wrapping_neg() % alignment;
        // SAFETY: less than the alignment, by which the mapping is longer than `length`; 0 for that of a page.
        let start = unsafe { mapped.add(aside) };
        Some(Region { mapped, size, start, length })
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
        let [slabs] = Slab::of_lengths([(count, length)], |_| Pages::Small)?;
        Some(slabs)
    }

    /// As [`Slab::many`], of several lengths in one region. Each kind is a number of slabs and their length. `pages` gets
    /// the length of the region.
    pub fn of_lengths<const N: usize>(
        kinds: [(usize, usize); N],
        pages: impl FnOnce(usize) -> Pages,
    ) -> Option<[Vec<Slab>; N]> {
        let whole = |length: usize| length.checked_next_multiple_of(ALIGNMENT);
        let mut total = 0_usize;
        for (count, length) in kinds {
            total = total.checked_add(whole(length)?.max(ALIGNMENT).checked_mul(count)?)?;
        }
        let total = total.max(ALIGNMENT);
        let region = Arc::new(Region::new(total, pages(total))?)?;
        let (mut slabs, mut from) = ([const { Vec::new() }; N], 0);
        for (slabs, (count, length)) in slabs.iter_mut().zip(kinds) {
            let length = whole(length)?.max(ALIGNMENT);
            slabs.try_reserve_exact(count).ok()?;
            for _ in 0..count {
                slabs.push(Slab { region: region.clone(), from, length });
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
        // SAFETY: zeroed by the kernel, within the region, and this slab alone has them.
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
    use crate::sys::inject::{self, Fault};

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

    /// The line of /proc/self/smaps that begins with this word, for the mapping of a region.
    fn line_of_mapping(slab: &Slab, word: &str) -> Option<String> {
        let start = slab.region().0.addr();
        let mappings = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut within = false;
        for line in mappings.lines() {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let number = |text| usize::from_str_radix(text, 16).ok();
            if let Some((Some(from), Some(to))) = range.map(|(a, b)| (number(a), number(b))) {
                within = (from..to).contains(&start);
            } else if within && line.starts_with(word) {
                return Some(line.to_string());
            }
        }
        None
    }

    #[test]
    fn a_large_region_asks_for_huge_pages_if_it_is_to_have_them() {
        if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage/enabled").exists() {
            println!("skipped: this kernel has no transparent huge pages");
            return;
        }
        let cases = [(17, Pages::Huge, true), (17, Pages::Small, false), (1, Pages::Huge, false)];
        for (count, pages, asks) in cases {
            let [slabs] = Slab::of_lengths([(count, 520 << 10)], |_| pages).unwrap();
            let flags = line_of_mapping(&slabs[0], "VmFlags:").unwrap();
            assert_eq!(flags.split(' ').any(|flag| flag == "hg"), asks, "{flags}");
        }
    }

    #[test]
    fn memory_without_huge_pages_is_as_good() {
        let refused = |call| match call {
            Call::Madvise => Fault::Errno(libc::EINVAL),
            _ => Fault::None,
        };
        let make = || Slab::of_lengths([(17, 520 << 10)], |_| Pages::Huge).unwrap();
        let [mut slabs] = inject::with(refused, make);
        slabs[16].bytes_mut().fill(1);
        assert!(slabs[15].bytes().iter().all(|byte| *byte == 0));
    }

    #[test]
    fn no_mapping_is_no_memory() {
        let refused = |call| match call {
            Call::Mmap => Fault::Errno(libc::ENOMEM),
            _ => Fault::None,
        };
        assert!(inject::with(refused, || Slab::many(1, 4096)).is_none());
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
        let [mut long, mut short] =
            Slab::of_lengths([(2, 8192), (3, 100)], |_| Pages::Small).unwrap();
        assert_eq!(long[1].start().addr() + 8192, short[0].start().addr());
        assert_eq!((long.len(), short.len(), short[2].bytes().len()), (2, 3, 4096));
        for (nth, slab) in long.iter_mut().chain(&mut short).enumerate() {
            assert_eq!(slab.region().1, 2 * 8192 + 3 * 4096);
            assert!(slab.bytes().iter().all(|byte| *byte == 0));
            slab.bytes_mut().fill(nth as u8 + 1);
        }
    }
}
