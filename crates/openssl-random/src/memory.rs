//! OpenSSL's own allocator, for the one thing that it takes over from us: a seed.

use core::ffi::{c_char, c_int, c_uchar, c_void};
use core::mem::transmute;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::openssl::Dispatch;

type Zalloc = extern "C" fn(usize, *const c_char, c_int) -> *mut c_void;
type ClearFree = extern "C" fn(*mut c_void, usize, *const c_char, c_int);

const ZALLOC: c_int = 21;
const CLEAR_FREE: c_int = 23;

static CORE_ZALLOC: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());
static CORE_CLEAR_FREE: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// Remembers the allocator among what OpenSSL offers; it is the same for all contexts of a process.
///
/// # Safety
/// `offered` is an array as OpenSSL defines it, ended with number 0.
pub unsafe fn take(offered: *const Dispatch) {
    let mut next = offered;
    // SAFETY: the caller vouches for the array.
    while let Some(entry) = unsafe { next.as_ref() }.filter(|entry| entry.number != 0) {
        match entry.number {
            ZALLOC => CORE_ZALLOC.store(entry.function.cast_mut(), Ordering::Release),
            CLEAR_FREE => CORE_CLEAR_FREE.store(entry.function.cast_mut(), Ordering::Release),
            _ => {}
        }
        // SAFETY: this was not the last one.
        next = unsafe { next.add(1) };
    }
}

/// So many zero bytes, or nothing when there are none.
pub fn allocate(length: usize) -> Option<*mut c_uchar> {
    let function = CORE_ZALLOC.load(Ordering::Acquire);
    if function.is_null() || CORE_CLEAR_FREE.load(Ordering::Acquire).is_null() {
        return None;
    }
    // SAFETY: OpenSSL gave it under the number of this type.
    let zalloc = unsafe { transmute::<*mut (), Zalloc>(function) };
    let bytes = zalloc(length, ptr::null(), 0).cast::<c_uchar>();
    (!bytes.is_null()).then_some(bytes)
}

/// Overwrites and gives back what [`allocate`] gave.
pub fn free(bytes: *mut c_uchar, length: usize) {
    let function = CORE_CLEAR_FREE.load(Ordering::Acquire);
    if !function.is_null() {
        // SAFETY: OpenSSL gave it under the number of this type.
        let clear_free = unsafe { transmute::<*mut (), ClearFree>(function) };
        clear_free(bytes.cast(), length, ptr::null(), 0);
    }
}
