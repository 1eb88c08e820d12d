//! The generator as OpenSSL sees it: the functions of an `EVP_RAND`, none of which keeps anything.
//!
//! Strength, prediction resistance, reseeding and additional input ask for what the kernel does by itself, so they are
//! accepted and change nothing. There is no state to lock, so locking succeeds and does nothing: threads draw at once.

use core::ffi::{c_int, c_uchar, c_uint, c_void};
use core::{ptr, slice};

use crate::getrandom::fill;
use crate::memory;
use crate::openssl::{self, Dispatch, Param, Value};

/// What every context is. It is only ever compared with null.
static CONTEXT: u8 = 0;

const STATE_READY: u64 = 1;
const STRENGTH_BITS: u64 = 256;
/// OpenSSL splits longer requests; the kernel would take them too, but in one call that no signal ends.
const MOST_BYTES: u64 = 1 << 20;

static PARAMS: [Param; 4] = [
    Param::int(c"state"),
    Param::unsigned(c"strength", size_of::<c_uint>()),
    Param::unsigned(c"max_request", size_of::<usize>()),
    Param::END,
];

extern "C" fn new_context(_: *mut c_void, _: *mut c_void, _: *const Dispatch) -> *mut c_void {
    (&raw const CONTEXT).cast_mut().cast()
}

extern "C" fn free_context(_: *mut c_void) {}

extern "C" fn instantiate(
    _: *mut c_void,
    _: c_uint,
    _: c_int,
    _: *const c_uchar,
    _: usize,
    _: *const Param,
) -> c_int {
    1
}

extern "C" fn uninstantiate(_: *mut c_void) -> c_int {
    1
}

/// # Safety
/// `out` points to `length` writable bytes.
unsafe extern "C" fn generate(
    _: *mut c_void,
    out: *mut c_uchar,
    length: usize,
    _: c_uint,
    _: c_int,
    _: *const c_uchar,
    _: usize,
) -> c_int {
    if length == 0 {
        return 1;
    }
    // SAFETY: OpenSSL vouches for it; bytes may have any value.
    c_int::from(!out.is_null() && fill(unsafe { slice::from_raw_parts_mut(out, length) }))
}

extern "C" fn reseed(
    _: *mut c_void,
    _: c_int,
    _: *const c_uchar,
    _: usize,
    _: *const c_uchar,
    _: usize,
) -> c_int {
    1
}

/// Seed for a generator that an application stacks on this one; 0 when there is none.
///
/// # Safety
/// `out` points to a pointer.
unsafe extern "C" fn get_seed(
    _: *mut c_void,
    out: *mut *mut c_uchar,
    bits: c_int,
    least: usize,
    most: usize,
    _: c_int,
    _: *const c_uchar,
    _: usize,
) -> usize {
    let length = usize::try_from(bits).unwrap_or(0).div_ceil(8).max(least);
    if length == 0 || length > most {
        return 0;
    }
    let Some(buffer) = memory::allocate(length) else {
        return 0;
    };
    // SAFETY: just allocated with that length and nobody else's; zeroed by the allocator.
    if !fill(unsafe { slice::from_raw_parts_mut(buffer, length) }) {
        memory::free(buffer, length);
        return 0;
    }
    // SAFETY: OpenSSL vouches for it.
    unsafe { out.write(buffer) };
    length
}

extern "C" fn clear_seed(_: *mut c_void, buffer: *mut c_uchar, length: usize) {
    if !buffer.is_null() {
        memory::free(buffer, length);
    }
}

extern "C" fn enable_locking(_: *mut c_void) -> c_int {
    1
}

extern "C" fn lock(_: *mut c_void) -> c_int {
    1
}

extern "C" fn unlock(_: *mut c_void) {}

extern "C" fn gettable_params(_: *mut c_void, _: *mut c_void) -> *const Param {
    ptr::from_ref(&PARAMS).cast()
}

/// # Safety
/// As [`openssl::answer`].
unsafe extern "C" fn get_params(_: *mut c_void, params: *mut Param) -> c_int {
    let known = [
        (c"state", Value::Number(STATE_READY)),
        (c"strength", Value::Number(STRENGTH_BITS)),
        (c"max_request", Value::Number(MOST_BYTES)),
    ];
    // SAFETY: the caller's promise is the same.
    unsafe { openssl::answer(params, &known) }
}

/// Kept nothing, so nothing is left to see.
extern "C" fn verify_zeroization(_: *mut c_void) -> c_int {
    1
}

/// The functions by OpenSSL's numbers (`OSSL_FUNC_RAND_…`); the number decides a function's type.
pub static FUNCTIONS: [Dispatch; 15] = [
    Dispatch::new(1, new_context as *const ()),
    Dispatch::new(2, free_context as *const ()),
    Dispatch::new(3, instantiate as *const ()),
    Dispatch::new(4, uninstantiate as *const ()),
    Dispatch::new(5, generate as *const ()),
    Dispatch::new(6, reseed as *const ()),
    Dispatch::new(8, enable_locking as *const ()),
    Dispatch::new(9, lock as *const ()),
    Dispatch::new(10, unlock as *const ()),
    Dispatch::new(12, gettable_params as *const ()),
    Dispatch::new(15, get_params as *const ()),
    Dispatch::new(17, verify_zeroization as *const ()),
    Dispatch::new(18, get_seed as *const ()),
    Dispatch::new(19, clear_seed as *const ()),
    Dispatch::END,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn find<F: Copy>(number: c_int) -> F {
        let entry = FUNCTIONS.iter().find(|entry| entry.number == number);
        let function = entry.expect("in the table").function;
        assert_eq!(size_of::<F>(), size_of_val(&function));
        // SAFETY: each test asks for the type that the number has in OpenSSL's header.
        unsafe { core::mem::transmute_copy(&function) }
    }

    #[test]
    fn bytes_come_without_any_state_and_differ() {
        type Generate = unsafe extern "C" fn(
            *mut c_void,
            *mut c_uchar,
            usize,
            c_uint,
            c_int,
            *const c_uchar,
            usize,
        ) -> c_int;
        let generate: Generate = find(5);
        let (mut one, mut two) = ([0; 32], [0; 32]);
        for out in [&mut one, &mut two] {
            // SAFETY: as the interface wants it: 32 writable bytes, no additional input.
            let done = unsafe {
                generate(
                    ptr::null_mut(),
                    out.as_mut_ptr(),
                    32,
                    256,
                    0,
                    ptr::null(),
                    0,
                )
            };
            assert_eq!(done, 1);
        }
        assert_ne!(one, two);
        // SAFETY: no bytes are asked for.
        let nothing =
            unsafe { generate(ptr::null_mut(), ptr::null_mut(), 0, 0, 0, ptr::null(), 0) };
        assert_eq!(nothing, 1);
    }

    #[test]
    fn there_is_no_seed_without_openssls_allocator_or_beyond_the_limits() {
        let mut buffer = ptr::null_mut();
        // SAFETY: `buffer` is there to be written.
        let got = unsafe {
            get_seed(
                ptr::null_mut(),
                &raw mut buffer,
                256,
                32,
                64,
                0,
                ptr::null(),
                0,
            )
        };
        assert_eq!((got, buffer.is_null()), (0, true));
        // SAFETY: as above.
        let got = unsafe {
            get_seed(
                ptr::null_mut(),
                &raw mut buffer,
                256,
                0,
                16,
                0,
                ptr::null(),
                0,
            )
        };
        assert_eq!(got, 0);
    }

    #[test]
    fn every_function_is_there_once() {
        let numbers: Vec<_> = FUNCTIONS.iter().map(|entry| entry.number).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 8, 9, 10, 12, 15, 17, 18, 19, 0]);
        assert!(
            FUNCTIONS[..14]
                .iter()
                .all(|entry| !entry.function.is_null())
        );
    }
}
