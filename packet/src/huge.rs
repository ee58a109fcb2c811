//! Large pages for large tables: what is read all over the place needs a translation of its address each time, and the
//! processor remembers few of them.
#![allow(unsafe_code)]

/// Less is not worth it: the size of a large page on the usual processors.
const LEAST: usize = 2 << 20;

/// Asks for large pages under the memory of a list that is still empty; it is a wish, which the kernel may not grant
/// (`/sys/kernel/mm/transparent_hugepage/enabled`). Small lists are left alone.
pub fn prefer_huge_pages<T>(list: &Vec<T>) {
    let bytes = list.capacity() * size_of::<T>();
    if bytes < LEAST {
        return;
    }
    // Only whole pages: others have the rest of those at the ends.
    const PAGE: usize = 4096;
    let first = list.as_ptr().cast::<u8>();
    let skip = first.align_offset(PAGE);
    let len = bytes.saturating_sub(skip) / PAGE * PAGE;
    // SAFETY: the range lies within the list's allocation, which `list` keeps alive. The advice changes neither what is
    // in memory nor what may be done with it, so that nobody can notice but by the time it takes.
    unsafe {
        libc::madvise(first.wrapping_add(skip).cast_mut().cast(), len, libc::MADV_HUGEPAGE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_stays() {
        for len in [0usize, 1, LEAST / 8 + 3, LEAST] {
            let mut list: Vec<u64> = Vec::with_capacity(len);
            prefer_huge_pages(&list);
            list.extend(0..len as u64);
            prefer_huge_pages(&list);
            assert!((0..len as u64).eq(list));
        }
    }
}
