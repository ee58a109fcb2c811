//! In steady state nothing on the packet path allocates.

mod kit;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use kit::Spec;
use trunkline_packet::{Batch, Headers, Pool, coalesce, pop_tag, push_tag, segment};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system allocator unchanged.
#[allow(unsafe_code, reason = "an allocator cannot be written without")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn segmenting_and_coalescing_again_and_again() {
    let tagged = |s: &mut Spec| s.tags = vec![(0x8100, 9)];
    let superframes: Vec<_> = [(true, false), (true, true), (false, false), (false, true)]
        .map(|(tcp, v6)| Spec::new(tcp, v6, 50_000).with(tagged))
        .into_iter()
        .collect();
    let mut pool = Pool::new(512, 16);
    let sources: Vec<_> = superframes.iter().map(|s| s.partial(1400, &mut pool)).collect();
    let (mut batch, mut cut) = (Batch::with_capacity(64), Batch::with_capacity(512));
    let mut round = |pool: &mut Pool| {
        for source in &sources {
            let mut packet = pool.duplicate(source);
            pop_tag(&mut packet).unwrap();
            assert!(Headers::parse(&packet).is_some());
            batch.push(packet);
        }
        for mut packet in batch.drain(..) {
            push_tag(&mut packet).unwrap();
            segment(packet, pool, &mut cut, true).unwrap();
        }
        assert_eq!(cut.len(), 4 * 36);
        assert_eq!(coalesce(&mut cut, pool), 4 * 35);
        pool.put_all(&mut cut);
    };
    round(&mut pool);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for _ in 0..20 {
        round(&mut pool);
    }
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), before);
}
