//! Doubly linked lists through the slots of an array: no allocation, removal from anywhere.

/// No slot.
pub(crate) const NIL: u32 = u32::MAX;

/// The neighbours of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Links {
    pub(crate) prev: u32,
    pub(crate) next: u32,
}

impl Links {
    pub(crate) const NONE: Links = Links { prev: NIL, next: NIL };
}

/// First and last slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct List {
    pub(crate) first: u32,
    pub(crate) last: u32,
}

impl List {
    pub(crate) const NEW: List = List { first: NIL, last: NIL };

    /// Appends a slot that is in no list. `links` gives the links of a slot.
    pub(crate) fn push<T>(&mut self, at: u32, slots: &mut [T], links: impl Fn(&mut T) -> &mut Links) {
        *links(&mut slots[at as usize]) = Links { prev: self.last, next: NIL };
        match self.last {
            NIL => self.first = at,
            last => links(&mut slots[last as usize]).next = at,
        }
        self.last = at;
    }

    /// Removes a slot that is in this list.
    pub(crate) fn remove<T>(&mut self, at: u32, slots: &mut [T], links: impl Fn(&mut T) -> &mut Links) {
        let Links { prev, next } = std::mem::replace(links(&mut slots[at as usize]), Links::NONE);
        match prev {
            NIL => self.first = next,
            prev => links(&mut slots[prev as usize]).next = next,
        }
        match next {
            NIL => self.last = prev,
            next => links(&mut slots[next as usize]).prev = prev,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_survives_removal_anywhere() {
        for gone in 0..4 {
            let mut slots = [Links::NONE; 4];
            let mut list = List::NEW;
            (0..4).for_each(|i| list.push(i, &mut slots, |l| l));
            list.remove(gone, &mut slots, |l| l);
            list.push(gone, &mut slots, |l| l);
            let mut seen = Vec::new();
            let mut at = list.first;
            while at != NIL {
                seen.push(at);
                at = slots[at as usize].next;
            }
            let want: Vec<u32> = (0..4).filter(|&i| i != gone).chain([gone]).collect();
            assert_eq!(seen, want);
            for i in want {
                list.remove(i, &mut slots, |l| l);
            }
            assert_eq!(list, List::NEW);
        }
    }
}
