//! The time stamp counter of the CPU, for measuring.

/// Its value now; `None` on CPUs without one. It counts at a constant rate, not with the core's clock.
#[inline]
pub fn now() -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: every x86-64 CPU has the instruction; it touches no memory.
        Some(unsafe { core::arch::x86_64::_rdtsc() })
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        None
    }
}
