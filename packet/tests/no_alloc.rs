//! In steady state nothing on the packet path allocates.

mod kit;

use allocation_counter::measure;
use kit::Spec;
use trunkline_packet::{Batch, Headers, Pool, coalesce, pop_tag, push_tag, segment};

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
    let allocated = measure(|| (0..20).for_each(|_| round(&mut pool)));
    assert_eq!(allocated.count_total, 0);
}
